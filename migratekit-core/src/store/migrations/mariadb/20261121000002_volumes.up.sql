-- Target volumes, their devices and exports, points and ledgers.

-- One target disk that holds (or will hold) a replica. Found by context and disk key, never by name.
CREATE TABLE IF NOT EXISTS ossea_volumes (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    vm_context_id VARCHAR(64) NOT NULL COMMENT 'The VM; a context with volumes cannot be deleted.',
    disk_key VARCHAR(64) NOT NULL COMMENT 'The source''s key of the disk.',
    volume_id VARCHAR(64) NOT NULL COMMENT 'The cloud''s (or the local site''s) UUID of the volume.',
    volume_name VARCHAR(255) NOT NULL COMMENT 'Its name there; never used to find it.',
    size_bytes BIGINT NOT NULL COMMENT 'Its size there.' CHECK (size_bytes >= 0),
    ossea_config_id BIGINT COMMENT 'The cloud it lives in.',
    volume_type VARCHAR(32) NOT NULL COMMENT 'Its role.' CHECK (volume_type IN ('ROOT', 'DATADISK')),
    device_path VARCHAR(255) COMMENT 'Where it is attached or its file.',
    generation BIGINT NOT NULL DEFAULT 0 COMMENT 'Raised by every write that did not come through the export; voids the ledger.',
    status VARCHAR(32) NOT NULL DEFAULT 'creating' COMMENT 'State of the volume.' CHECK (status IN ('creating', 'allocated', 'ready', 'attached', 'detached', 'destroy')),
    made_by_job_id VARCHAR(64) COMMENT 'The job that made it; only its undo may remove it.',
    snapshot_id VARCHAR(191) COMMENT 'Snapshot at the target.',
    snapshot_created_at BIGINT COMMENT 'When it was made.',
    snapshot_status VARCHAR(32) NOT NULL DEFAULT 'none' COMMENT 'State of that snapshot.' CHECK (snapshot_status IN ('none', 'creating', 'ready', 'failed', 'rollback_complete')),
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `volume_id` (volume_id),
    UNIQUE KEY `vm_context_id,disk_key` (vm_context_id, disk_key),
    KEY `ix ossea_config_id` (ossea_config_id),
    KEY `ix made_by_job_id` (made_by_job_id),
    CONSTRAINT fk_ossea_volumes__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE RESTRICT,
    CONSTRAINT fk_ossea_volumes__ossea_config_id FOREIGN KEY (ossea_config_id) REFERENCES ossea_configs (id) ON DELETE RESTRICT,
    CONSTRAINT fk_ossea_volumes__made_by_job_id FOREIGN KEY (made_by_job_id) REFERENCES job_tracking (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='One target disk that holds (or will hold) a replica. Found by context and disk key, never by name.';

-- Which device of the appliance is which volume.
CREATE TABLE IF NOT EXISTS device_mappings (
    id VARCHAR(64) NOT NULL COMMENT '`map-` and a UUID v7.',
    vm_context_id VARCHAR(64) NOT NULL COMMENT 'The VM.',
    volume_uuid VARCHAR(64) NOT NULL COMMENT 'The volume.',
    vm_id VARCHAR(191) NOT NULL COMMENT 'The machine it is attached to.',
    operation_mode VARCHAR(32) NOT NULL DEFAULT 'oma' COMMENT 'Attached to the appliance or to a failover VM.' CHECK (operation_mode IN ('oma', 'failover')),
    cloudstack_device_id BIGINT COMMENT 'Device number in the cloud.',
    device_path VARCHAR(255) COMMENT 'The device; empty until it is known, never a placeholder.',
    cloudstack_state VARCHAR(32) NOT NULL COMMENT 'As the cloud says.',
    linux_state VARCHAR(32) NOT NULL DEFAULT 'n/a' COMMENT 'Whether the device was found here.' CHECK (linux_state IN ('detected', 'n/a')),
    size_bytes BIGINT NOT NULL COMMENT 'Size of the device.' CHECK (size_bytes >= 0),
    last_sync BIGINT COMMENT 'Last compared with the cloud.',
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `volume_uuid` (volume_uuid),
    UNIQUE KEY `device_path` (device_path),
    KEY `ix vm_context_id` (vm_context_id),
    CONSTRAINT fk_device_mappings__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
    CONSTRAINT fk_device_mappings__volume_uuid FOREIGN KEY (volume_uuid) REFERENCES ossea_volumes (volume_id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Which device of the appliance is which volume.';

-- One operation of the volume service.
CREATE TABLE IF NOT EXISTS volume_operations (
    id VARCHAR(64) NOT NULL COMMENT '`op-` and a UUID v7.',
    `type` VARCHAR(32) NOT NULL COMMENT 'What is done.' CHECK (`type` IN ('create', 'attach', 'detach', 'delete', 'cleanup')),
    status VARCHAR(32) NOT NULL DEFAULT 'pending' COMMENT 'State of the operation.' CHECK (status IN ('pending', 'executing', 'completed', 'failed', 'cancelled')),
    volume_id VARCHAR(64) COMMENT 'The volume; none before one is made.',
    vm_id VARCHAR(191) COMMENT 'The machine.',
    request JSON NOT NULL COMMENT 'What was asked.',
    response JSON COMMENT 'What came back.',
    error MEDIUMTEXT COMMENT 'Why it failed.',
    created_at BIGINT NOT NULL COMMENT 'Asked for.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    completed_at BIGINT COMMENT 'Ended.',
    PRIMARY KEY (id),
    KEY `ix status,updated_at` (status, updated_at),
    KEY `ix volume_id,created_at` (volume_id, created_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='One operation of the volume service.';

-- Every change of state of a volume operation.
CREATE TABLE IF NOT EXISTS volume_operation_history (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    operation_id VARCHAR(64) NOT NULL COMMENT 'The operation.',
    previous_status VARCHAR(32) COMMENT 'State before; empty at the start.',
    new_status VARCHAR(32) NOT NULL COMMENT 'State after.',
    changed_at BIGINT NOT NULL COMMENT 'When.',
    details JSON COMMENT 'Why.',
    PRIMARY KEY (id),
    KEY `ix operation_id` (operation_id),
    CONSTRAINT fk_volume_operation_history__operation_id FOREIGN KEY (operation_id) REFERENCES volume_operations (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Every change of state of a volume operation.';

-- Mounts of volumes on the appliance.
CREATE TABLE IF NOT EXISTS volume_mounts (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    ossea_volume_id BIGINT NOT NULL COMMENT 'The volume.',
    job_id VARCHAR(64) COMMENT 'The job that mounted it.',
    device_path VARCHAR(255) NOT NULL COMMENT 'The device.',
    mount_point VARCHAR(255) NOT NULL COMMENT 'Where.',
    filesystem_type VARCHAR(64) COMMENT 'As found.',
    is_read_only BOOLEAN NOT NULL DEFAULT 1 COMMENT 'It cannot be written.' CHECK (is_read_only IN (0, 1)),
    mounted_at BIGINT NOT NULL COMMENT 'Mounted.',
    unmounted_at BIGINT COMMENT 'Unmounted.',
    PRIMARY KEY (id),
    KEY `ix ossea_volume_id` (ossea_volume_id),
    KEY `ix job_id` (job_id),
    CONSTRAINT fk_volume_mounts__ossea_volume_id FOREIGN KEY (ossea_volume_id) REFERENCES ossea_volumes (id) ON DELETE CASCADE,
    CONSTRAINT fk_volume_mounts__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Mounts of volumes on the appliance.';

-- Figures of the volume service over time.
CREATE TABLE IF NOT EXISTS volume_daemon_metrics (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    `timestamp` BIGINT NOT NULL COMMENT 'When taken.',
    total_operations BIGINT NOT NULL DEFAULT 0 COMMENT 'Operations so far.',
    pending_operations BIGINT NOT NULL DEFAULT 0 COMMENT 'Not ended.',
    active_mappings BIGINT NOT NULL DEFAULT 0 COMMENT 'Devices mapped.',
    operations_by_type JSON COMMENT 'Counts.',
    operations_by_status JSON COMMENT 'Counts.',
    average_response_time_ms DOUBLE NOT NULL DEFAULT 0 COMMENT 'Mean time of an operation in ms.',
    error_rate_percent DOUBLE NOT NULL DEFAULT 0 COMMENT 'Failed of all.',
    details JSON COMMENT 'More.',
    PRIMARY KEY (id),
    KEY `ix timestamp` (timestamp)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Figures of the volume service over time.';

-- One volume served by NBD.
CREATE TABLE IF NOT EXISTS nbd_exports (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    vm_context_id VARCHAR(64) NOT NULL COMMENT 'The VM.',
    job_id VARCHAR(64) COMMENT 'The job it was made for.',
    volume_id VARCHAR(64) NOT NULL COMMENT 'The volume.',
    vm_disk_id BIGINT COMMENT 'The disk.',
    device_mapping_uuid VARCHAR(64) COMMENT 'The device.',
    export_name VARCHAR(255) NOT NULL COMMENT '`migration-vol-` and the volume''s UUID.',
    port BIGINT COMMENT 'Port of the server, where there is one.',
    device_path VARCHAR(255) COMMENT 'The device or file behind it.',
    epoch BIGINT NOT NULL DEFAULT 0 COMMENT 'The lowest epoch it admits.',
    status VARCHAR(32) NOT NULL DEFAULT 'pending' COMMENT 'State of the export.' CHECK (status IN ('pending', 'active', 'failed')),
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `export_name` (export_name),
    KEY `ix volume_id` (volume_id),
    KEY `ix vm_context_id` (vm_context_id),
    KEY `ix job_id` (job_id),
    KEY `ix vm_disk_id` (vm_disk_id),
    KEY `ix device_mapping_uuid` (device_mapping_uuid),
    CONSTRAINT fk_nbd_exports__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
    CONSTRAINT fk_nbd_exports__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE SET NULL,
    CONSTRAINT fk_nbd_exports__vm_disk_id FOREIGN KEY (vm_disk_id) REFERENCES vm_disks (id) ON DELETE CASCADE,
    CONSTRAINT fk_nbd_exports__device_mapping_uuid FOREIGN KEY (device_mapping_uuid) REFERENCES device_mappings (volume_uuid) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='One volume served by NBD.';

-- Older scheme of export names by VM and disk unit.
CREATE TABLE IF NOT EXISTS vm_export_mappings (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    vm_id VARCHAR(64) NOT NULL COMMENT 'The VM.',
    disk_unit_number BIGINT NOT NULL COMMENT 'Unit of the disk.',
    vm_name VARCHAR(255) NOT NULL COMMENT 'The VM''s name.',
    export_name VARCHAR(255) NOT NULL COMMENT '`migration-vm-ID-diskN`.',
    device_path VARCHAR(255) COMMENT 'The device.',
    status VARCHAR(32) NOT NULL DEFAULT 'active' COMMENT 'In use or not.' CHECK (status IN ('active', 'inactive')),
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `export_name` (export_name),
    UNIQUE KEY `device_path` (device_path),
    UNIQUE KEY `vm_id,disk_unit_number` (vm_id, disk_unit_number)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Older scheme of export names by VM and disk unit.';

-- One complete, named point in time of all disks of a VM.
CREATE TABLE IF NOT EXISTS replica_points (
    id VARCHAR(64) NOT NULL COMMENT '`pt-` and a UUID v7.',
    vm_context_id VARCHAR(64) NOT NULL COMMENT 'The VM.',
    job_id VARCHAR(64) NOT NULL COMMENT 'The job that made it; its id is kept when the job is deleted.',
    seq BIGINT NOT NULL COMMENT '1, 2, 3 .. within the context; the highest is the current point.',
    status VARCHAR(32) NOT NULL DEFAULT 'committed' COMMENT 'committed: spools must still be applied; applied: the volumes hold it; superseded: a later one took its place.' CHECK (status IN ('committed', 'applied', 'superseded')),
    quiesced BOOLEAN NOT NULL DEFAULT 0 COMMENT 'The guest''s file systems were at rest.' CHECK (quiesced IN (0, 1)),
    taken_at BIGINT NOT NULL COMMENT 'The source''s snapshot was taken.',
    disk_count BIGINT NOT NULL COMMENT 'Disks in it.',
    committed_at BIGINT NOT NULL COMMENT 'The commit.',
    applied_at BIGINT COMMENT 'All spools applied.',
    PRIMARY KEY (id),
    UNIQUE KEY `vm_context_id,seq` (vm_context_id, seq),
    KEY `ix status,committed_at` (status, committed_at),
    CONSTRAINT fk_replica_points__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='One complete, named point in time of all disks of a VM.';

-- What one point holds of one disk.
CREATE TABLE IF NOT EXISTS replica_point_disks (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    point_id VARCHAR(64) NOT NULL COMMENT 'The point.',
    vm_disk_id BIGINT NOT NULL COMMENT 'The disk.',
    disk_key VARCHAR(64) NOT NULL COMMENT 'The source''s key of the disk.',
    volume_id VARCHAR(64) NOT NULL COMMENT 'The volume that holds it.',
    change_id VARCHAR(255) COMMENT 'The source''s mark of this state; none where the source has no change tracking.',
    capacity_bytes BIGINT NOT NULL COMMENT 'Size of the disk at this point.' CHECK (capacity_bytes >= 0),
    first_digest VARCHAR(64) NOT NULL COMMENT 'BLAKE3 of the first MiB of the volume at this point, in hex.',
    last_digest VARCHAR(64) NOT NULL COMMENT 'BLAKE3 of the last MiB.',
    pass VARCHAR(191) NOT NULL COMMENT 'The pass, as the volume''s ledger names it.',
    spool VARCHAR(500) COMMENT 'Where the spool lies; none when the bytes went straight into the volume.',
    applied BOOLEAN NOT NULL DEFAULT 0 COMMENT 'The volume holds it.' CHECK (applied IN (0, 1)),
    PRIMARY KEY (id),
    UNIQUE KEY `point_id,disk_key` (point_id, disk_key),
    KEY `ix vm_disk_id` (vm_disk_id),
    CONSTRAINT fk_replica_point_disks__point_id FOREIGN KEY (point_id) REFERENCES replica_points (id) ON DELETE CASCADE,
    CONSTRAINT fk_replica_point_disks__vm_disk_id FOREIGN KEY (vm_disk_id) REFERENCES vm_disks (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='What one point holds of one disk.';

-- Where the ledger of a volume lies, by generation.
CREATE TABLE IF NOT EXISTS volume_ledgers (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    volume_id VARCHAR(64) NOT NULL COMMENT 'The volume.',
    generation BIGINT NOT NULL COMMENT 'The volume''s generation it speaks of.',
    path VARCHAR(500) NOT NULL COMMENT 'The ledger''s file.',
    created_at BIGINT NOT NULL COMMENT 'Made.',
    voided_at BIGINT COMMENT 'The generation was raised.',
    PRIMARY KEY (id),
    UNIQUE KEY `volume_id,generation` (volume_id, generation),
    CONSTRAINT fk_volume_ledgers__volume_id FOREIGN KEY (volume_id) REFERENCES ossea_volumes (volume_id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Where the ledger of a volume lies, by generation.';
