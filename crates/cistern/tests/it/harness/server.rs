//! A server under test.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::Signal;

use super::api::Api;
use super::process::{cistern, command, run_ok};
use super::world::{self, Place};

/// How a server is started.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    place: Place,
    listen: [String; 2],
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Words before the program: what prepares the place that it runs in.
    wrapper: Vec<String>,
    /// The data folder, where it is not in a folder of the server's own.
    data: Option<PathBuf>,
}

/// A running `cistern serve` with a data folder of its own.
pub(crate) struct Server {
    setup: Setup,
    child: Option<Child>,
    dir: tempfile::TempDir,
    /// What it said on standard output until it listened.
    pub(crate) greeting: String,
    /// The address of the API listener, such as `http://127.0.0.1:1234`.
    pub(crate) api_url: String,
    /// The address of the registry listener.
    pub(crate) registry_url: String,
    /// The token of the first start.
    pub(crate) token: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            args: vec!["--fetch-allow".into(), "127.0.0.0/8".into()],
            ..Self::strict_at(world::place())
        }
    }
}

impl Setup {
    /// Without the permission to fetch from loopback that the others have.
    pub(crate) fn strict() -> Self {
        Self::strict_at(world::place())
    }

    /// The same with these rows and objects, which need not be of this run's world.
    pub(crate) fn strict_at(place: Place) -> Self {
        Self {
            place,
            listen: ["127.0.0.1:0", "127.0.0.1:0"].map(str::to_owned),
            args: Vec::new(),
            env: Vec::new(),
            wrapper: Vec::new(),
            data: None,
        }
    }

    /// Both services on this one address, which needs `host.registry`.
    #[must_use]
    pub(crate) fn one_port(mut self, address: &str) -> Self {
        self.listen = [address, address].map(str::to_owned);
        self
    }

    /// The same with one more flag.
    #[must_use]
    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// The same with one more environment variable.
    #[must_use]
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The same without a cache of a bucket's blocks. With one, a bucket that fails or loses something is noticed or
    /// not, as it was read before or not.
    #[must_use]
    pub(crate) fn uncached(self) -> Self {
        self.env("CISTERN_CACHE__MIB", "0")
    }

    /// The same with its rows and objects elsewhere.
    #[must_use]
    pub(crate) fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// The same, with the server started by these words, which must end in running what follows them in their own
    /// process.
    #[must_use]
    pub(crate) fn wrapped(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// The same with another data folder.
    #[must_use]
    pub(crate) fn data(mut self, folder: PathBuf) -> Self {
        self.data = Some(folder);
        self
    }

    /// The same, listening on free ports of this address.
    #[must_use]
    pub(crate) fn listening(mut self, host: &str) -> Self {
        self.listen = [format!("{host}:0"), format!("{host}:0")];
        self.arg("--insecure-http")
    }

    /// A server with a data folder of its own that works on the rows and objects of another.
    pub(crate) fn start_beside(self, first: &Server) -> Server {
        self.at(first.setup.place.clone()).start_sharing(first)
    }

    /// The same, by its own way to these rows and objects.
    pub(crate) fn start_sharing(self, first: &Server) -> Server {
        let secrets = first.data().join("secrets.key").display().to_string();
        let mut server = self.env("CISTERN_SECRETS_KEY_FILE", &secrets).stopped();
        server.start_again();
        server.token.clone_from(&first.token);
        server
    }

    /// A server that has not been started, with the data folder and the objects of another.
    pub(crate) fn stopped_beside(self, first: &Server) -> Server {
        let mut place = first.setup.place.clone();
        place.database = None;
        self.at(place).data(first.data()).stopped()
    }

    /// `cistern` with this world's database, objects and environment; `words` is the command.
    pub(crate) fn command(&self, data: &Path, words: &[&str]) -> Command {
        let mut command = cistern();
        command.args(words).arg("--data").arg(data);
        command
            .envs(self.place.env.iter().cloned())
            .envs(self.env.iter().cloned());
        if let Some(url) = &self.place.database {
            command.env("CISTERN_DATABASE", url);
        }
        if let Some(url) = &self.place.objects {
            command.env("CISTERN_OBJECTS", url);
        }
        command
    }

    /// Starts a server on a new installation.
    pub(crate) fn start(self) -> Server {
        let mut server = self.stopped();
        server.start_again();
        server.token = token_in(&server.greeting).expect("a first start prints a token");
        server
    }

    /// So many servers, started at the same moment on one new installation.
    pub(crate) fn start_at_once(&self, count: usize) -> Vec<Server> {
        // One file for all of them, made by the first.
        let folder = tempfile::tempdir().expect("a temporary folder").keep();
        let secrets = folder.join("secrets.key").display().to_string();
        let setup = self.clone().env("CISTERN_SECRETS_KEY_FILE", &secrets);
        let start = || {
            let mut server = setup.clone().stopped();
            server.start_again();
            server
        };
        std::thread::scope(|scope| {
            let starts: Vec<_> = (0..count).map(|_| scope.spawn(start)).collect();
            let started = starts.into_iter().map(|one| one.join().expect("it starts"));
            started.collect()
        })
    }

    /// A server that has not been started.
    pub(crate) fn stopped(self) -> Server {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Server {
            setup: self,
            child: None,
            dir,
            greeting: String::new(),
            api_url: String::new(),
            registry_url: String::new(),
            token: String::new(),
        }
    }
}

impl Server {
    /// A server on a new installation with the usual settings.
    pub(crate) fn start() -> Self {
        Setup::default().start()
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        let usual = || self.dir.path().join("data");
        self.setup.data.clone().unwrap_or_else(usual)
    }

    /// The URL of its database.
    pub(crate) fn database_url(&self) -> String {
        let file = format!("sqlite://{}", self.data().join("cistern.sqlite").display());
        self.setup.place.database.clone().unwrap_or(file)
    }

    /// The folder where its objects lie, also those in S3.
    pub(crate) fn objects(&self) -> PathBuf {
        let url = self.setup.place.objects.as_deref();
        url.map_or_else(|| self.data().join("store"), |url| world::s3().folder(url))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// A local command on this installation.
    pub(crate) fn local(&self, words: &[&str]) -> Command {
        self.setup.command(&self.data(), words)
    }

    /// A remote command against this server.
    pub(crate) fn remote(&self, words: &[&str]) -> Command {
        let mut command = cistern();
        command
            .args(words)
            .env("CISTERN_URL", &self.api_url)
            .env("CISTERN_TOKEN", &self.token);
        command
    }

    /// A client with the first token.
    pub(crate) fn api(&self) -> Api {
        Api::new(&self.api_url, &self.token)
    }

    /// A client with a token that `cistern token create` makes with these words.
    pub(crate) fn api_with(&self, words: &[&str]) -> Api {
        let all: Vec<&str> = ["token", "create"].iter().chain(words).copied().collect();
        Api::new(&self.api_url, run_ok(&mut self.local(&all)).trim())
    }

    /// Gives the first owner a password.
    pub(crate) fn password_set(&self, password: &str) {
        let mut command = self.local(&["user", "passwd", "owner@localhost", "--password-stdin"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(password.as_bytes()).expect("writes");
        drop(stdin);
        assert!(child.wait().expect("it ends").success());
    }

    /// Starts it (again) on the same installation and waits until both listeners are up.
    pub(crate) fn start_again(&mut self) {
        let listen = self.setup.listen.clone();
        self.spawn(&listen, Stdio::piped());
        let child = self.child.as_mut().expect("it was started");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(stdout).lines();
        let (mut api, mut registry) = (None, None);
        self.greeting.clear();
        while api.is_none() || registry.is_none() {
            let line = match lines.next() {
                Some(Ok(line)) => line,
                other => panic!(
                    "it stopped before it listened ({other:?}):\n{}\n{}",
                    self.greeting,
                    self.log_text()
                ),
            };
            let word = line.split_whitespace().last().map(str::to_owned);
            if line.starts_with("listening api ") {
                api = word;
            } else if line.starts_with("listening registry ") {
                registry = word;
            }
            self.greeting.push_str(&line);
            self.greeting.push('\n');
        }
        (self.api_url, self.registry_url) = (api.expect("seen"), registry.expect("seen"));
        // Keeps the pipe open and empty.
        std::thread::spawn(move || lines.for_each(drop));
    }

    /// Has it listen where it does now when it is started again.
    pub(crate) fn keep_ports(&mut self) {
        let address = |url: &str| url.rsplit('/').next().expect("an address").to_owned();
        self.setup.listen = [address(&self.api_url), address(&self.registry_url)];
    }

    /// Starts it again with its API at this address, and waits for nothing: what is tested is the start.
    pub(crate) fn start_unheard(&mut self, api: &str) {
        self.spawn(&[api.to_owned(), self.setup.listen[1].clone()], Stdio::null());
        self.api_url = format!("http://{api}");
    }

    /// Starts it and waits for nothing; what it says goes into this file.
    pub(crate) fn start_into(&mut self, said: std::fs::File) {
        let listen = self.setup.listen.clone();
        self.spawn(&listen, said.into());
    }

    fn spawn(&mut self, listen: &[String; 2], stdout: Stdio) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("the log opens");
        let mut command = wrapped(self.setup.command(&self.data(), &["serve"]), &self.setup.wrapper);
        command
            .args(["--listen-api", &listen[0]])
            .args(["--listen-registry", &listen[1]])
            .args(&self.setup.args);
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(log).spawn();
        self.child = Some(child.expect("it starts"));
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("it runs"));
        rustix::process::kill_process(pid, signal).expect("it can be signalled");
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.child
            .take()
            .expect("it runs")
            .wait()
            .expect("it can be waited for")
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("it was started");
        child.try_wait().expect("it can be asked").is_none()
    }

    /// Where its log goes.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// Everything it logged so far.
    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}", self.log_text());
        }
        self.kill();
    }
}

/// The same command, started by `words`.
pub(crate) fn wrapped(inner: Command, words: &[String]) -> Command {
    let Some((first, rest)) = words.split_first() else {
        return inner;
    };
    let mut outer = command(first);
    outer.args(rest).arg(inner.get_program()).args(inner.get_args());
    outer.env_clear();
    outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer
}

/// The first API token in a text.
pub(crate) fn token_in(text: &str) -> Option<String> {
    let start = text.find("dop_v1_")?;
    Some(
        text[start..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect(),
    )
}
