//! The database and the objects that the servers of this run use.

use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::process::{Guarded, command, find, free_port, run_ok, skip, spawn_guarded, variable};

/// What one server is started with beside its data folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// `--database`, if not the default.
    pub(crate) database: Option<String>,
    /// `--objects`, if not the default.
    pub(crate) objects: Option<String>,
    /// Credentials for the objects.
    pub(crate) env: Vec<(String, String)>,
}

/// The name of this run's world.
pub(crate) fn name() -> String {
    variable("CISTERN_TEST_WORLD").unwrap_or_else(|| "sqlite+folder".into())
}

/// A database and a bucket of its own for one server, of this run's world.
pub(crate) fn place() -> Place {
    place_in(&name())
}

/// The same of a world that a test needs whatever this run's is; none, with the reason printed, where a program is
/// missing.
pub(crate) fn place_if_there(world: &str) -> Option<Place> {
    let wanted = [("postgres", "initdb"), ("s3", "versitygw")];
    let missing = wanted
        .iter()
        .find(|(word, program)| world.contains(word) && find(program).is_none());
    if let Some((_, program)) = missing {
        skip(&format!("`{program}` is not there (tests/clients/install.sh)"));
        return None;
    }
    Some(place_in(world))
}

fn place_in(name: &str) -> Place {
    let mut place = Place::default();
    let (database, objects) = name
        .split_once('+')
        .unwrap_or_else(|| panic!("`{name}` is not a world"));
    match database {
        "sqlite" => {}
        "postgres" => place.database = Some(postgres().database()),
        other => panic!("`{other}` is not a database of this suite"),
    }
    match objects {
        "folder" => {}
        "s3" => {
            place.objects = Some(s3().bucket());
            place.env = s3_keys();
        }
        other => panic!("`{other}` is not a backend of this suite"),
    }
    place
}

/// The key to the S3 servers, as settings.
pub(crate) fn s3_keys() -> Vec<(String, String)> {
    vec![
        ("CISTERN_OBJECTS_ACCESS_KEY".into(), S3_KEY.into()),
        ("CISTERN_OBJECTS_SECRET_KEY".into(), S3_SECRET.into()),
    ]
}

const LOOPBACK: &str = "127.0.0.1";
const S3_KEY: &str = "cistern-tests";
const S3_SECRET: &str = "cistern-tests-secret";

/// A PostgreSQL cluster for the whole run.
pub(crate) struct Postgres {
    host: String,
    port: u16,
    next: std::sync::atomic::AtomicU32,
    _server: Guarded,
}

/// Starts the cluster at its first use.
pub(crate) fn postgres() -> &'static Postgres {
    static CLUSTER: OnceLock<Postgres> = OnceLock::new();
    CLUSTER.get_or_init(|| Postgres::start(LOOPBACK))
}

impl Postgres {
    /// Starts one that listens on loopback and on this address, and takes whoever comes.
    pub(crate) fn start(host: &str) -> Self {
        let initdb = find("initdb").expect("PostgreSQL is installed (tests/clients/install.sh apt)");
        // The link in /usr/local/bin that some machines have leads to where all of PostgreSQL's programs are.
        let initdb = initdb.canonicalize().expect("it is there");
        let bin = initdb
            .parent()
            .expect("it lies in a folder")
            .display()
            .to_string();
        let dir = tempfile::tempdir().expect("a temporary folder").keep();
        let data = dir.join("pg").display().to_string();
        let port = free_port();
        run_ok(command("chmod").arg("0777").arg(&dir));
        // PostgreSQL refuses to run as root.
        run_ok(as_postgres().args([
            &format!("{bin}/initdb"),
            "-D",
            &data,
            "-A",
            "trust",
            "-U",
            "postgres",
            "--no-sync",
            // Where no locale is set it would keep texts as ASCII, which Cistern refuses.
            "-E",
            "UTF8",
            "--locale=C",
        ]));
        admit_all(&dir.join("pg/pg_hba.conf"), host);
        let mut words: Vec<String> = Vec::new();
        let unprivileged = as_postgres();
        words.push(unprivileged.get_program().to_string_lossy().into_owned());
        words.extend(unprivileged.get_args().map(|a| a.to_string_lossy().into_owned()));
        words.extend([
            format!("{bin}/postgres"),
            "-D".into(),
            data.clone(),
            "-p".into(),
            port.to_string(),
        ]);
        for setting in [
            &format!("listen_addresses={}", listened(host)),
            &format!("unix_socket_directories={data}"),
            "max_connections=300",
        ] {
            words.extend(["-c".into(), setting.to_owned()]);
        }
        let server = spawn_guarded(&words, &dir);
        let ready = || {
            command(&format!("{bin}/pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
                .status()
                .expect("pg_isready lies beside initdb")
        };
        wait("PostgreSQL", || ready().success());
        Self {
            host: host.to_owned(),
            port,
            next: 0.into(),
            _server: server,
        }
    }

    /// Where it listens on loopback.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a new, empty database.
    pub(crate) fn database(&self) -> String {
        self.database_with("")
    }

    /// The same, made with these words of `CREATE DATABASE`.
    pub(crate) fn database_with(&self, words: &str) -> String {
        let n = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("t{n}");
        let psql = find("psql").expect("psql comes with PostgreSQL");
        let create = format!("CREATE DATABASE {name} {words}");
        run_ok(command(&psql.display().to_string()).args([
            "-h",
            &self.host,
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-q",
            "-c",
            &create,
            "postgres",
        ]));
        format!("postgres://postgres@{}:{}/{name}", self.host, self.port)
    }
}

/// Where a cluster listens.
fn listened(host: &str) -> String {
    if host == LOOPBACK {
        return host.to_owned();
    }
    format!("{LOOPBACK},{host}")
}

/// What is on loopback alone admits only that by itself.
fn admit_all(rules: &Path, host: &str) {
    if host == LOOPBACK {
        return;
    }
    let file = std::fs::File::options().append(true).open(rules);
    let mut file = file.expect("a cluster has rules");
    writeln!(file, "host all all samenet trust").expect("writes");
}

/// The words before a command that make it run as an unprivileged user where this is root.
fn as_postgres() -> std::process::Command {
    if rustix::process::getuid().is_root() {
        let mut command = command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]);
        command
    } else {
        command("env")
    }
}

/// An S3 server for the whole run.
pub(crate) struct S3 {
    host: String,
    port: u16,
    next: std::sync::atomic::AtomicU32,
    data: std::path::PathBuf,
    _server: Guarded,
}

/// Starts the S3 server at its first use.
pub(crate) fn s3() -> &'static S3 {
    static SERVER: OnceLock<S3> = OnceLock::new();
    SERVER.get_or_init(|| S3::start(LOOPBACK))
}

impl S3 {
    /// Starts one that listens on this address.
    pub(crate) fn start(host: &str) -> Self {
        let program = find("versitygw").expect("versitygw is installed (tests/clients/install.sh versitygw)");
        let dir = tempfile::tempdir().expect("a temporary folder").keep();
        let (data, side) = (dir.join("data"), dir.join("side"));
        for folder in [&data, &side] {
            std::fs::create_dir(folder).expect("a folder can be made");
        }
        let port = free_port();
        let text = |path: &Path| path.display().to_string();
        let words = vec![
            "env".into(),
            format!("ROOT_ACCESS_KEY={S3_KEY}"),
            format!("ROOT_SECRET_KEY={S3_SECRET}"),
            text(&program),
            "--port".into(),
            format!("{host}:{port}"),
            "posix".into(),
            "--sidecar".into(),
            text(&side),
            text(&data),
        ];
        let server = spawn_guarded(&words, &dir);
        wait("the S3 server", || {
            std::net::TcpStream::connect((host, port)).is_ok()
        });
        Self {
            host: host.to_owned(),
            port,
            next: 0.into(),
            data,
            _server: server,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Where it keeps what is under this URL: to this server a folder is a bucket.
    pub(crate) fn folder(&self, url: &str) -> std::path::PathBuf {
        let bucket = url.strip_prefix("s3://").and_then(|rest| rest.split('?').next());
        self.data.join(bucket.expect("an address in S3"))
    }

    /// The URL of a new, empty bucket.
    pub(crate) fn bucket(&self) -> String {
        let n = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let url = format!(
            "s3://bucket-{n}?endpoint=http://{}&region=us-east-1",
            self.address()
        );
        std::fs::create_dir(self.folder(&url)).expect("a bucket can be made");
        url
    }
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !ready() {
        assert!(Instant::now() < deadline, "{what} does not answer");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
