//! `cistern serve`: from settings to answered requests, and to an end that loses nothing.
//!
//! Order matters. The folder is locked and the ports are bound before the database is touched, so that a second
//! server changes nothing; ports answer `/healthz` while a long migration runs; the `listening` lines are printed
//! when requests can be served, and a signal before that ends the process at once. At the end no new connection is
//! taken, requests, jobs and the process's own end get `shutdown_seconds` together, and a second signal ends the
//! process at once.

mod accept;
mod activity;
mod answer;
mod edge;
mod files;
mod health;
mod idle;
mod rooms;
mod routers;
mod self_signed;
mod split;
mod tls;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::app::{App, Opening, objects_shown};
use crate::cli::{Output, output};
use crate::config::{Config, Http};
use crate::images;
use crate::platform::accounts::service::FirstStart;
use crate::platform::clock::Clock;
use crate::platform::data_lock::{DataLock, data_folder_make, data_lock};
use crate::platform::error::{Context, Error, Result};
use crate::platform::events::refusals_flush;
use crate::platform::jobs::Engine;
use crate::platform::journal;
use crate::platform::storage::cache::cache_open;
use crate::platform::storage::mend::headers_mend;
use crate::platform::storage::space;
use crate::telemetry;
use accept::{Gate, Listener, Running};
use files::connections;
use health::{Phase, Step};
use tls::{Certificate, Files, Look};

/// How often certificate files are looked at.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(5);
/// How often the database's disk is looked at: so long a full one can keep its reserve from work that opens no
/// transaction of its own.
const ROOM_EVERY: Duration = Duration::from_secs(1);
/// What of `shutdown_seconds` is kept for the process's own end, at most a tenth: the system waits for reads and writes
/// under way before it takes a process away.
const LEAVE: Duration = Duration::from_secs(1);
/// How often histograms are folded, which otherwise grow with every request.
const METRICS_EVERY: Duration = Duration::from_secs(10);

/// Both listeners, bound; one where they share a port.
struct Bound {
    api: TcpListener,
    registry: Option<TcpListener>,
}

/// Where they are, as clients write it.
struct Urls {
    api: String,
    registry: String,
}

/// Serves until a signal comes.
pub async fn run(mut config: Config, output: Output) -> Result<()> {
    let mut signals = Signals::new()?;
    tls::provider_install();
    telemetry::metrics_init();
    files::files_raise();
    if let Some(shortage) = files_shortage(&config, files_limit()) {
        tracing::warn!("{shortage}");
    }
    let _lock = data_take(&config)?;
    images::workfile::key_renew(&images::spool::folder(&config.data))
        .context("could not look for working files")?;
    let certificate = certificate(&config)?;
    let bound = Bound::new(&config).await?;
    let urls = bound.urls(&config)?;
    bound.tell(&mut config)?;

    let phase = Phase::default();
    let starting = routers::starting(&config, &phase);
    let (gate_api, gate_registry) = (Gate::new(starting.api), Gate::new(starting.registry));
    let listeners = bound.run(&config, certificate.as_ref(), &gate_api, &gate_registry);

    let Some(Started { app, first, engine }) = start(config, &phase, &mut signals).await? else {
        return Ok(());
    };
    let Some(engine) = engine else {
        announce(&app.config, output, &urls, first.as_ref());
        return Ok(());
    };
    let running = routers::running(&app, &phase);
    gate_api.set(running.api);
    gate_registry.set(running.registry);
    phase.ready();
    announce(&app.config, output, &urls, first.as_ref());

    let upkeep = tokio::spawn(upkeep(app.clone(), certificate.clone()));
    let (sweeping, journaling) = (CancellationToken::new(), CancellationToken::new());
    let local = tokio::spawn(images::local::serve(app.clone(), sweeping.clone()));
    let writers = writers_start(&app, &sweeping, &journaling);
    while signals.stop_or_reload().await {
        certificate_reload(&app, certificate.as_deref(), Look::Asked);
    }
    let leave = leave(app.config.shutdown_limit());
    let until = Instant::now() + app.config.shutdown_limit().saturating_sub(leave);
    phase.drain();
    upkeep.abort();
    if let Some(writers) = &writers {
        writers.tidying.abort();
        writers.watching.abort();
    }
    tracing::info!(
        seconds = app.config.shutdown_seconds,
        "stopping; a second signal stops at once"
    );
    let drained = async {
        let requests = futures::future::join_all(listeners.into_iter().map(Running::drain));
        tokio::join!(requests, engine.stop());
    };
    tokio::select! {
        drained = tokio::time::timeout_at(until, drained) => stop_tell(drained.is_ok()),
        () = signals.stop() => process_end(1),
    }
    sweeping.cancel();
    // Its end is the removal of its socket; where even that takes time, the next start removes it.
    let _ = tokio::time::timeout(leave / 20, local).await;
    books_close(&app, writers, &journaling, leave).await;
    // What is still open (downloads that nobody reads) is cut off here and now. Everything that was acknowledged is
    // durable, and taking the rest apart piece by piece would only take time that is not ours any more.
    process_end(0)
}

/// Tells the log whether everything has ended, or the time to wait for it has.
fn stop_tell(has_ended: bool) {
    if has_ended {
        tracing::info!("stopped");
        return;
    }
    tracing::warn!(
        "the time to stop ran out (`shutdown_seconds`): requests that are not answered are cut off, and jobs go on after \
         the next start"
    );
}

/// Writes down what only this process knows, within its part of `leave`; the rest is done at the next start.
async fn books_close(app: &App, writers: Option<Writers>, journaling: &CancellationToken, leave: Duration) {
    let _ = tokio::time::timeout(leave / 10, refusals_flush(app)).await;
    journaling.cancel();
    if let Some(writers) = writers {
        let _ = tokio::time::timeout(leave / 4, writers.journal).await;
    }
    let _ = tokio::time::timeout(leave / 4, app.db.fold()).await;
}

/// What changes rows and objects beside requests and jobs.
struct Writers {
    tidying: JoinHandle<()>,
    watching: JoinHandle<()>,
    journal: JoinHandle<()>,
}

/// Starts them; none where nothing may be written.
fn writers_start(app: &App, sweeping: &CancellationToken, journaling: &CancellationToken) -> Option<Writers> {
    if app.db.refusal().is_some() {
        return None;
    }
    tokio::spawn(images::service::sweeper(app.clone(), sweeping.clone()));
    tokio::spawn(images::uploads::service::upload_sweeper(
        app.clone(),
        sweeping.clone(),
    ));
    Some(Writers {
        tidying: tokio::spawn(crate::platform::upkeep::run(app.clone())),
        watching: tokio::spawn(space::watch(app.clone())),
        journal: tokio::spawn(journal::run(app.clone(), journaling.clone())),
    })
}

/// What a start makes.
struct Started {
    app: App,
    first: Option<FirstStart>,
    /// `None` where a signal came before it.
    engine: Option<Engine>,
}

/// Everything that must be done before the first request is served, each part named in `phase`. A signal ends it, as
/// there is nothing yet that it would have to wait for; `None` where nothing was made that must be told.
async fn start(config: Config, phase: &Phase, signals: &mut Signals) -> Result<Option<Started>> {
    let app = tokio::select! {
        opened = open(config, phase) => opened?,
        () = signals.stop() => return Ok(None),
    };
    phase.start(Step::Owner);
    let (first, is_stopped) = first_start(&app, signals).await?;
    if is_stopped {
        let engine = None;
        return Ok(first.is_some().then_some(Started { app, first, engine }));
    }
    phase.start(Step::Engine);
    let engine = Some(app.engine_start().await?);
    Ok(Some(Started { app, first, engine }))
}

async fn open(config: Config, phase: &Phase) -> Result<App> {
    let app = App::open_telling(config, &|opening| match opening {
        Opening::Database => phase.start(Step::Database),
        Opening::Objects => phase.start(Step::Objects),
    })
    .await?;
    phase.start(Step::ObjectsTest);
    app.objects_test().await?;
    headers_mend(&app).await;
    cache_open(&app);
    Ok(app)
}

/// Makes the first owner, and says whether a signal came meanwhile. Their token is kept nowhere and shown once, so a
/// signal waits for it; a second one does not.
async fn first_start(app: &App, signals: &mut Signals) -> Result<(Option<FirstStart>, bool)> {
    let mut making = pin!(app.first_start());
    tokio::select! {
        first = &mut making => return Ok((first?, false)),
        () = signals.stop() => {}
    }
    tokio::select! {
        first = making => Ok((first?, true)),
        () = signals.stop() => Ok((None, true)),
    }
}

/// How long before the end of `limit` requests and jobs must have ended, so that the process is gone within it.
fn leave(limit: Duration) -> Duration {
    LEAVE.min(limit / 10)
}

impl Bound {
    async fn new(config: &Config) -> Result<Self> {
        let api = bind("listen_api", config.listen_api).await?;
        let registry = if config.one_port() {
            None
        } else {
            Some(bind("listen_registry", config.listen_registry).await?)
        };
        Ok(Self { api, registry })
    }

    /// Puts the real ports into the settings, where port 0 was asked for: a download must not reach them.
    fn tell(&self, config: &mut Config) -> Result<()> {
        let port = |socket: &TcpListener| -> Result<u16> {
            let address = socket.local_addr().context("a listener has no address")?;
            Ok(address.port())
        };
        config.listen_api.set_port(port(&self.api)?);
        if let Some(registry) = &self.registry {
            config.listen_registry.set_port(port(registry)?);
        }
        Ok(())
    }

    fn urls(&self, config: &Config) -> Result<Urls> {
        let scheme = if config.has_tls() { "https" } else { "http" };
        let url = |socket: &TcpListener| -> Result<String> {
            let address = socket.local_addr().context("a listener has no address")?;
            Ok(format!("{scheme}://{address}"))
        };
        Ok(Urls {
            api: url(&self.api)?,
            registry: url(self.registry.as_ref().unwrap_or(&self.api))?,
        })
    }

    fn run(
        self,
        config: &Config,
        certificate: Option<&Arc<Certificate>>,
        gate_api: &Gate,
        gate_registry: &Gate,
    ) -> Vec<Running> {
        let http = Http {
            max_connections: connections(config, files_limit()),
            ..config.http.clone()
        };
        let make = |name, socket, gate: &Gate| {
            let tls = certificate.map(Certificate::server_config);
            Listener {
                name,
                socket,
                tls,
                gate: gate.clone(),
                http: http.clone(),
            }
            .run()
        };
        let mut all = vec![make("api", self.api, gate_api)];
        all.extend(
            self.registry
                .map(|socket| make("registry", socket, gate_registry)),
        );
        all
    }
}

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let flag = key.replace('_', "-");
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            return Error::Precondition(format!(
                "cannot listen on `{address}`: {error}; ports below 1024 need root, or in a systemd unit \
                 `AmbientCapabilities=CAP_NET_BIND_SERVICE`. Or give another port with `--{flag}`"
            ));
        }
        Error::Precondition(format!(
            "cannot listen on `{address}`: {error}; give another address with `--{flag}` (port 0 takes any free one)"
        ))
    })
}

/// Whether the certificate that the settings name can be used; one of our own is made at a start.
pub fn certificate_check(config: &Config) -> Result<()> {
    provider_install();
    if config.tls.self_signed {
        return Ok(());
    }
    certificate(config).map(drop)
}

/// The certificate that the settings ask for.
fn certificate(config: &Config) -> Result<Option<Arc<Certificate>>> {
    let files = match (&config.tls.cert, &config.tls.key) {
        (Some(cert), Some(key)) => Files {
            cert: cert.clone(),
            key: key.clone(),
        },
        _ if config.tls.self_signed => self_signed::ensure(config, Clock::default().now())?,
        _ => return Ok(None),
    };
    Certificate::load(files).map(Some)
}

/// What must be looked after while the server runs. Ended by its handle.
async fn upkeep(app: App, certificate: Option<Arc<Certificate>>) {
    let (mut files, mut folding) = (interval(CERTIFICATE_EVERY), interval(METRICS_EVERY));
    let mut room = interval(ROOM_EVERY);
    room.set_missed_tick_behavior(MissedTickBehavior::Delay);
    files.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = files.tick() => certificate_reload(&app, certificate.as_deref(), Look::Usual),
            _ = room.tick() => {
                app.db.reserve_look().await;
                app.objects_reserve_look().await;
                space::tell(&app);
                metrics::gauge!("cistern_read_only").set(f64::from(u8::from(app.db.refusal().is_some())));
            }
            _ = folding.tick() => telemetry::metrics_upkeep(),
        }
    }
}

fn certificate_reload(app: &App, certificate: Option<&Certificate>, look: Look) {
    let Some(certificate) = certificate else { return };
    if app.config.tls.self_signed {
        let renewed = self_signed::ensure(&app.config, app.clock.now()).map(drop);
        if let Some(error) = certificate.renewal.news(renewed.err(), look) {
            tracing::error!(error, "could not renew the certificate");
        }
    }
    match certificate.reload(look) {
        Ok(true) => tracing::info!("a new certificate is in use"),
        Ok(false) => {}
        Err(error) => tracing::error!(error, "the new certificate is unusable; the old one stays"),
    }
}

/// The lines that people and scripts wait for. A closed stdout is no reason to stop.
fn announce(config: &Config, output: Output, urls: &Urls, first: Option<&FirstStart>) {
    if output.is_json() {
        let _ = output::line_write(&announcement(config, urls, first).to_string());
        return;
    }
    let mut text = first.map_or_else(String::new, |first| welcome(config, urls, first));
    if config.tls.self_signed {
        let _ = writeln!(
            text,
            "certificate authority {}",
            absolute(&self_signed::ca_path(config)).display()
        );
    }
    // Last: who reads these two lines has seen everything.
    let _ = writeln!(
        text,
        "listening api {}\nlistening registry {}",
        urls.api, urls.registry
    );
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The same for scripts. `first_start` is null from the second start on.
fn announcement(config: &Config, urls: &Urls, first: Option<&FirstStart>) -> serde_json::Value {
    let ca = config.tls.self_signed.then(|| self_signed::ca_path(config));
    let first = first.map(|first| {
        json!({ "token": first.token, "sign_in_link": sign_in_link(config, urls, first), "user": first.email })
    });
    json!({ "api": urls.api, "registry": urls.registry, "certificate_authority": ca, "first_start": first })
}

/// The address under which users reach the API.
fn url_outside(config: &Config, urls: &Urls) -> String {
    let external = config.external_url.api.as_ref();
    external.map_or_else(
        || named(&urls.api, config.host.api.as_deref()),
        |url| url.as_str().trim_end_matches('/').to_owned(),
    )
}

/// An address that can be typed: nobody is at `0.0.0.0`, and no certificate is for it.
fn named(url: &str, host: Option<&str>) -> String {
    let Some((scheme, port)) = url.split_once("://").and_then(|(scheme, at)| {
        let at: SocketAddr = at.parse().ok()?;
        at.ip().is_unspecified().then(|| (scheme, at.port()))
    }) else {
        return url.to_owned();
    };
    format!("{scheme}://{}:{port}", host.unwrap_or("localhost"))
}

fn sign_in_link(config: &Config, urls: &Urls, first: &FirstStart) -> String {
    let console = config.console_url(&url_outside(config, urls));
    format!("{console}/sign-in/{}", first.sign_in)
}

/// What is pasted into another shell must not depend on its folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Shown once: the token and the link are kept nowhere.
fn welcome(config: &Config, urls: &Urls, first: &FirstStart) -> String {
    let url = url_outside(config, urls);
    let ca = if config.tls.self_signed {
        format!(
            "
  export CISTERN_CA_FILE={}",
            absolute(&self_signed::ca_path(config)).display()
        )
    } else {
        String::new()
    };
    format!(
        "\nCistern is ready. Its data is in {data}. What follows is shown once.\n\n  \
         API token      {token}\n  \
         Sign-in link   {link}  (as {email}, once, within 24 hours)\n\n\
         Try next, in another terminal:\n\n  \
         export CISTERN_URL={url} CISTERN_TOKEN={token}{ca}\n  \
         cistern image import FILE-OR-URL --name my-first-image\n\n",
        data = config.data.display(),
        token = first.token,
        link = sign_in_link(config, urls, first),
        email = first.email,
    )
}

/// The signals that mean something here.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("could not listen for signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            reload: on(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal; true where it was SIGHUP, which asks to read certificates again.
    async fn stop_or_reload(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => false,
            _ = self.reload.recv() => true,
        }
    }

    /// The next SIGTERM or SIGINT.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends the process without waiting for any thread. After a second signal (1) whoever sent it does not want to wait;
/// jobs are taken up again at the next start.
fn process_end(code: i32) -> ! {
    process::exit(code)
}

/// Makes the data folder where it is not there, and holds it against a server.
pub fn data_take(config: &Config) -> Result<DataLock> {
    data_folder_make(&config.data)?;
    data_lock(&config.data, &objects_shown(config), config.sqlite().as_deref())
}

pub use files::{files_limit, files_shortage};
pub use tls::provider_install;
