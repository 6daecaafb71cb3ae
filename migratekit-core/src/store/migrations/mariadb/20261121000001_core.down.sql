-- Back from: contexts, disks, replications, failovers, networks.

DROP TABLE IF EXISTS network_mappings;
DROP TABLE IF EXISTS failover_jobs;
DROP TABLE IF EXISTS vm_disks;
DROP TABLE IF EXISTS replication_jobs;
DROP TABLE IF EXISTS vm_replication_contexts;
