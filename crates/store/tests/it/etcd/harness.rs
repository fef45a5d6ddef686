//! Real etcd members on loopback ports with TLS both ways, in a folder that goes with the test. Also used by the API
//! server's tests.

#![expect(
    clippy::disallowed_methods,
    reason = "the processes under test are etcd's; the host crate is not for tests"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use store::{EtcdOptions, EtcdTls};
use tokio::time::Instant;

/// How long a cluster may take to have a leader.
const PATIENCE: Duration = Duration::from_secs(30);

/// One member's place.
struct Member {
    client: u16,
    peer: u16,
    metrics: u16,
    process: Option<Child>,
}

/// An etcd cluster that ends with this value.
pub struct Etcd {
    folder: tempfile::TempDir,
    members: Vec<Member>,
    ca: String,
    client: (String, String),
}

impl Etcd {
    /// Starts so many members and waits until they have a leader.
    pub async fn start(members: usize) -> Etcd {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let (ca, client) = certificates(folder.path());
        let ports = free_ports(members * 3);
        let members = ports.chunks(3).map(|ports| Member {
            client: ports[0],
            peer: ports[1],
            metrics: ports[2],
            process: None,
        });
        let mut etcd = Etcd { members: members.collect(), folder, ca, client };
        (0..etcd.members.len()).for_each(|number| etcd.run(number));
        etcd.leader().await;
        etcd
    }

    /// How a store that calls itself `identity` gets there.
    pub fn options(&self, identity: &str) -> EtcdOptions {
        let endpoints = self.members.iter().map(|member| format!("https://127.0.0.1:{}", member.client));
        let (certificate, key) = &self.client;
        let own = Some((certificate.as_bytes(), key.as_bytes()));
        let tls = EtcdTls::from_pem(self.ca.as_bytes(), own).expect("certificates");
        EtcdOptions { tls: Some(tls), ..EtcdOptions::new(endpoints.collect(), identity) }
    }

    /// The folder of a member's data.
    pub fn data(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("m{number}"))
    }

    /// Starts a member that does not run.
    pub fn run(&mut self, number: usize) {
        let url = |scheme: &str, port: u16| format!("{scheme}://127.0.0.1:{port}");
        let peers: Vec<String> =
            self.members.iter().enumerate().map(|(n, m)| format!("m{n}={}", url("https", m.peer))).collect();
        let member = &self.members[number];
        let at = |name: &str| self.folder.path().join(name);
        let log = std::fs::File::options().create(true).append(true).open(at(&format!("m{number}.log")));
        // It must not outlive the test, however that ends.
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "etcd",
            "--logger=zap",
            "--log-outputs=stderr",
            "--snapshot-count=2000",
            // A split vote costs a second round; with etcd's defaults of a second and more each, two rounds alone
            // would be over what is promised of a member's loss.
            "--heartbeat-interval=100",
            "--election-timeout=500",
        ]);
        command.args(["--name", &format!("m{number}"), "--initial-cluster", &peers.join(",")]);
        command.arg("--data-dir").arg(self.data(number));
        command.args(["--listen-client-urls", &url("https", member.client)]);
        command.args(["--advertise-client-urls", &url("https", member.client)]);
        command.args(["--listen-peer-urls", &url("https", member.peer)]);
        command.args(["--initial-advertise-peer-urls", &url("https", member.peer)]);
        command.args(["--listen-metrics-urls", &url("http", member.metrics)]);
        command.arg("--client-cert-auth").arg("--peer-client-cert-auth");
        for prefix in ["", "peer-"] {
            command.arg(format!("--{prefix}cert-file")).arg(at("server.crt"));
            command.arg(format!("--{prefix}key-file")).arg(at("server.key"));
            command.arg(format!("--{prefix}trusted-ca-file")).arg(at("ca.crt"));
        }
        command.stdout(Stdio::null()).stderr(log.expect("a log"));
        let process = command.spawn().expect("etcd (Debian's etcd-server, see scripts/setup) and setpriv");
        self.members[number].process = Some(process);
    }

    /// Kills a member without warning.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.members[number].process.take() {
            process.kill().expect("killed");
            process.wait().expect("gone");
        }
    }

    /// Stops a member from doing anything, while its connections stay open; or lets it go on.
    #[allow(dead_code, reason = "not all who include this file freeze members")]
    pub fn freeze(&self, number: usize, frozen: bool) {
        let process = self.members[number].process.as_ref().expect("it runs");
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let done = Command::new("kill").args([signal, &process.id().to_string()]).status();
        assert!(done.expect("kill").success());
    }

    /// The number of the member that leads, once there is one.
    pub async fn leader(&self) -> usize {
        self.leader_without(None).await
    }

    /// As [`Etcd::leader`], of the members but this one: a frozen one would still say that it leads, if it spoke.
    pub async fn leader_without(&self, except: Option<usize>) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leads = |number: &usize| {
                let member = &self.members[*number];
                Some(*number) != except && member.process.is_some() && leads(member.metrics)
            };
            if let Some(leader) = (0..self.members.len()).find(leads) {
                return leader;
            }
            assert!(Instant::now() < deadline, "etcd has no leader; see {}", self.folder.path().display());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|number| self.kill(number));
    }
}

/// What the member's metrics say; one that does not answer does not lead.
fn leads(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.contains("\netcd_server_is_leader 1\n"))
}

/// Ports that nobody listens on.
fn free_ports(count: usize) -> Vec<u16> {
    let sockets: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
    sockets.iter().map(|socket| socket.local_addr().expect("bound").port()).collect()
}

/// Writes what members need, and returns the CA and a client's certificate and key.
fn certificates(folder: &Path) -> (String, (String, String)) {
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("written");
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "etcd-ca");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("signed").pem();
    let issuer = Issuer::new(ca, ca_key);
    let issue = |names: Vec<String>, usages: Vec<ExtendedKeyUsagePurpose>| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = usages;
        (params.signed_by(&key, &issuer).expect("signed").pem(), key.serialize_pem())
    };
    // A member is a client of its peers, too.
    let (server, key) = issue(
        vec!["127.0.0.1".to_owned()],
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    );
    write("ca.crt", &ca_pem);
    write("server.crt", &server);
    write("server.key", &key);
    (ca_pem, issue(vec!["client".to_owned()], vec![ExtendedKeyUsagePurpose::ClientAuth]))
}
