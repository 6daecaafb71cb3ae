//! A Galera cluster of three on the loopback, for tests.

use super::mariadb::MariaDb;
use super::peer::free_port;

/// The library that makes a MariaDB a node.
const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
/// How long the nodes may take to be one cluster.
const JOIN_TIME: std::time::Duration = std::time::Duration::from_secs(60);

/// Three nodes. Dropping it ends them.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<MariaDb>,
}

impl Cluster {
    /// Starts three nodes and waits until all are in.
    ///
    /// # Panics
    /// When Galera is not installed, or the nodes do not find each other.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn start() -> Self {
        assert!(std::path::Path::new(PROVIDER).is_file(), "galera-4 is not installed; run: {}", super::peer::INSTALL);
        let _ = super::peer::program("rsync");
        let ports: Vec<[u16; 3]> = (0..3).map(|_| [free_port(), free_port(), free_port()]).collect();
        let members = ports.iter().map(|port| format!("127.0.0.1:{}", port[0])).collect::<Vec<_>>().join(",");
        let mut cluster = Cluster { nodes: Vec::new() };
        for (i, [group, ist, sst]) in ports.iter().enumerate() {
            let address = if i == 0 { "gcomm://".to_owned() } else { format!("gcomm://{members}") };
            let options = format!(
                "base_host=127.0.0.1;base_port={group};gmcast.listen_addr=tcp://127.0.0.1:{group};ist.recv_addr=127.0.0.1:{ist};gcache.size=32M;\
                 evs.suspect_timeout=PT1S;evs.inactive_timeout=PT3S;evs.keepalive_period=PT0.3S;evs.inactive_check_period=PT0.3S"
            );
            cluster.nodes.push(MariaDb::start_with(&[
                "--binlog-format=ROW",
                "--innodb-autoinc-lock-mode=2",
                "--wsrep-on=ON",
                &format!("--wsrep-provider={PROVIDER}"),
                "--wsrep-cluster-name=migratekit",
                &format!("--wsrep-node-name=n{i}"),
                &format!("--wsrep-node-address=127.0.0.1:{group}"),
                "--wsrep-sst-method=rsync",
                &format!("--wsrep-sst-receive-address=127.0.0.1:{sst}"),
                &format!("--wsrep-provider-options={options}"),
                &format!("--wsrep-cluster-address={address}"),
            ]));
            let end = std::time::Instant::now() + JOIN_TIME;
            while !cluster.is_synced(i) {
                assert!(std::time::Instant::now() < end, "node {i} did not join");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        cluster
    }

    fn is_synced(&self, i: usize) -> bool {
        self.nodes
            .get(i)
            .is_some_and(|node| node.try_sql("SHOW STATUS LIKE 'wsrep_local_state_comment'").is_ok_and(|state| state.contains("Synced")))
    }

    /// One node.
    ///
    /// # Panics
    /// When there is none of this number.
    #[must_use]
    #[allow(clippy::indexing_slicing)]
    pub fn node(&self, i: usize) -> &MariaDb {
        &self.nodes[i]
    }

    /// `kill -9` of one node.
    pub fn kill(&mut self, i: usize) {
        if let Some(node) = self.nodes.get_mut(i) {
            node.kill();
        }
    }

    /// The address of a database, with all three hosts.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let hosts = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect::<Vec<_>>().join(",");
        format!("mysql://root@{hosts}/{database}?tls=off")
    }
}
