//! `cistern serve` and `cistern init`.

use serde_json::json;

use super::flags::{LocalFlags, ServerFlags};
use super::{Context, Outcome, block_on};
use crate::app::App;
use crate::platform::journal;
use crate::{serve, telemetry};

const EXAMPLES: &str = "Examples:
  cistern serve
  cistern serve --data /var/lib/cistern --listen-api 0.0.0.0:8443 --tls-self-signed
  cistern serve --database postgres://cistern@db/cistern --objects 's3://images?endpoint=https://s3.example.com'
  cistern serve --fetch-allow 192.168.10.0/24 --log-format json
  cistern serve --json                            its addresses as one line of JSON, for scripts

Every flag can also be a line of the settings file or an environment variable; see docs/configuration.md.";

/// Flags of `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    flags: ServerFlags,
}

/// Flags of `init`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cistern init --data /var/lib/cistern")]
pub struct InitArgs {
    #[command(flatten)]
    flags: LocalFlags,
}

/// Serves until a signal comes.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let loaded = args.flags.load(context)?;
    telemetry::init(&loaded.config.log, context.env.no_color());
    block_on(async move { Ok(serve::run(loaded.config, context.output).await?) })
}

/// Makes what `serve` would make on an empty folder. On one that has been made it says so and changes nothing.
pub fn init(args: &InitArgs, context: &Context) -> Outcome {
    let config = args.flags.config(context)?;
    block_on(async move {
        let _lock = serve::data_take(&config)?;
        let app = App::open(config).await?;
        let data = app.data.display().to_string();
        let first = app.first_start().await?;
        journal::flush(&app).await?;
        let token = first.as_ref().map(|f| f.token.as_str());
        // Where the console will be, only the server knows.
        let sign_in = first.as_ref().map(|f| format!("/sign-in/{}", f.sign_in));
        let document =
            json!({ "data": data, "created": first.is_some(), "token": token, "sign_in_path": sign_in });
        context.output.document(&document, || match (token, &sign_in) {
            (Some(token), Some(sign_in)) => format!(
                "Made {data}. What follows is shown once.\n\n  API token      {token}\n  Sign-in link   {sign_in}  (below \
                 the server's address, once, within 24 hours)\n\nNext: cistern serve --data {data}"
            ),
            _ => format!("{data} is there already and was not changed. Next: cistern serve --data {data}"),
        });
        Ok(())
    })
}
