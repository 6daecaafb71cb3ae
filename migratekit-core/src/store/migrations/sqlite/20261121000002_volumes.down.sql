-- Back from: target volumes, their devices and exports, points and ledgers.

DROP TABLE IF EXISTS volume_ledgers;
DROP TABLE IF EXISTS replica_point_disks;
DROP TABLE IF EXISTS replica_points;
DROP TABLE IF EXISTS vm_export_mappings;
DROP TABLE IF EXISTS nbd_exports;
DROP TABLE IF EXISTS volume_daemon_metrics;
DROP TABLE IF EXISTS volume_mounts;
DROP TABLE IF EXISTS volume_operation_history;
DROP TABLE IF EXISTS volume_operations;
DROP TABLE IF EXISTS device_mappings;
DROP TABLE IF EXISTS ossea_volumes;
