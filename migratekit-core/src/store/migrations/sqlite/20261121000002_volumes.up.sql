-- Target volumes, their devices and exports, points and ledgers.

-- One target disk that holds (or will hold) a replica. Found by context and disk key, never by name.
CREATE TABLE IF NOT EXISTS ossea_volumes (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The VM; a context with volumes cannot be deleted.
    vm_context_id TEXT NOT NULL CHECK (length(vm_context_id) <= 64),
    -- The source's key of the disk.
    disk_key TEXT NOT NULL CHECK (length(disk_key) <= 64),
    -- The cloud's (or the local site's) UUID of the volume.
    volume_id TEXT NOT NULL CHECK (length(volume_id) <= 64),
    -- Its name there; never used to find it.
    volume_name TEXT NOT NULL CHECK (length(volume_name) <= 255),
    -- Its size there.
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    -- The cloud it lives in.
    ossea_config_id INTEGER,
    -- Its role.
    volume_type TEXT NOT NULL CHECK (volume_type IN ('ROOT', 'DATADISK')),
    -- Where it is attached or its file.
    device_path TEXT CHECK (length(device_path) <= 255),
    -- Raised by every write that did not come through the export; voids the ledger.
    generation INTEGER NOT NULL DEFAULT 0,
    -- State of the volume.
    status TEXT NOT NULL DEFAULT 'creating' CHECK (status IN ('creating', 'allocated', 'ready', 'attached', 'detached', 'destroy')),
    -- The job that made it; only its undo may remove it.
    made_by_job_id TEXT CHECK (length(made_by_job_id) <= 64),
    -- Snapshot at the target.
    snapshot_id TEXT CHECK (length(snapshot_id) <= 191),
    -- When it was made.
    snapshot_created_at INTEGER,
    -- State of that snapshot.
    snapshot_status TEXT NOT NULL DEFAULT 'none' CHECK (snapshot_status IN ('none', 'creating', 'ready', 'failed', 'rollback_complete')),
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (volume_id),
    UNIQUE (vm_context_id, disk_key),
    CONSTRAINT fk_ossea_volumes__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE RESTRICT,
    CONSTRAINT fk_ossea_volumes__ossea_config_id FOREIGN KEY (ossea_config_id) REFERENCES ossea_configs (id) ON DELETE RESTRICT,
    CONSTRAINT fk_ossea_volumes__made_by_job_id FOREIGN KEY (made_by_job_id) REFERENCES job_tracking (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_ossea_volumes__ossea_config_id ON ossea_volumes (ossea_config_id);

CREATE INDEX IF NOT EXISTS ix_ossea_volumes__made_by_job_id ON ossea_volumes (made_by_job_id);

-- Which device of the appliance is which volume.
CREATE TABLE IF NOT EXISTS device_mappings (
    -- `map-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- The VM.
    vm_context_id TEXT NOT NULL CHECK (length(vm_context_id) <= 64),
    -- The volume.
    volume_uuid TEXT NOT NULL CHECK (length(volume_uuid) <= 64),
    -- The machine it is attached to.
    vm_id TEXT NOT NULL CHECK (length(vm_id) <= 191),
    -- Attached to the appliance or to a failover VM.
    operation_mode TEXT NOT NULL DEFAULT 'oma' CHECK (operation_mode IN ('oma', 'failover')),
    -- Device number in the cloud.
    cloudstack_device_id INTEGER,
    -- The device; empty until it is known, never a placeholder.
    device_path TEXT CHECK (length(device_path) <= 255),
    -- As the cloud says.
    cloudstack_state TEXT NOT NULL CHECK (length(cloudstack_state) <= 32),
    -- Whether the device was found here.
    linux_state TEXT NOT NULL DEFAULT 'n/a' CHECK (linux_state IN ('detected', 'n/a')),
    -- Size of the device.
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    -- Last compared with the cloud.
    last_sync INTEGER,
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (volume_uuid),
    UNIQUE (device_path),
    CONSTRAINT fk_device_mappings__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
    CONSTRAINT fk_device_mappings__volume_uuid FOREIGN KEY (volume_uuid) REFERENCES ossea_volumes (volume_id) ON DELETE CASCADE
) STRICT;

CREATE INDEX IF NOT EXISTS ix_device_mappings__vm_context_id ON device_mappings (vm_context_id);

-- One operation of the volume service.
CREATE TABLE IF NOT EXISTS volume_operations (
    -- `op-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- What is done.
    "type" TEXT NOT NULL CHECK ("type" IN ('create', 'attach', 'detach', 'delete', 'cleanup')),
    -- State of the operation.
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'executing', 'completed', 'failed', 'cancelled')),
    -- The volume; none before one is made.
    volume_id TEXT CHECK (length(volume_id) <= 64),
    -- The machine.
    vm_id TEXT CHECK (length(vm_id) <= 191),
    -- What was asked.
    request TEXT NOT NULL CHECK (json_valid(request)),
    -- What came back.
    response TEXT CHECK (json_valid(response)),
    -- Why it failed.
    error TEXT CHECK (length(error) <= 4194303),
    -- Asked for.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    -- Ended.
    completed_at INTEGER
) STRICT;

CREATE INDEX IF NOT EXISTS ix_volume_operations__status__updated_at ON volume_operations (status, updated_at);

CREATE INDEX IF NOT EXISTS ix_volume_operations__volume_id__created_at ON volume_operations (volume_id, created_at);

-- Every change of state of a volume operation.
CREATE TABLE IF NOT EXISTS volume_operation_history (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The operation.
    operation_id TEXT NOT NULL CHECK (length(operation_id) <= 64),
    -- State before; empty at the start.
    previous_status TEXT CHECK (length(previous_status) <= 32),
    -- State after.
    new_status TEXT NOT NULL CHECK (length(new_status) <= 32),
    -- When.
    changed_at INTEGER NOT NULL,
    -- Why.
    details TEXT CHECK (json_valid(details)),
    CONSTRAINT fk_volume_operation_history__operation_id FOREIGN KEY (operation_id) REFERENCES volume_operations (id) ON DELETE CASCADE
) STRICT;

CREATE INDEX IF NOT EXISTS ix_volume_operation_history__operation_id ON volume_operation_history (operation_id);

-- Mounts of volumes on the appliance.
CREATE TABLE IF NOT EXISTS volume_mounts (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The volume.
    ossea_volume_id INTEGER NOT NULL,
    -- The job that mounted it.
    job_id TEXT CHECK (length(job_id) <= 64),
    -- The device.
    device_path TEXT NOT NULL CHECK (length(device_path) <= 255),
    -- Where.
    mount_point TEXT NOT NULL CHECK (length(mount_point) <= 255),
    -- As found.
    filesystem_type TEXT CHECK (length(filesystem_type) <= 64),
    -- It cannot be written.
    is_read_only INTEGER NOT NULL DEFAULT 1 CHECK (is_read_only IN (0, 1)),
    -- Mounted.
    mounted_at INTEGER NOT NULL,
    -- Unmounted.
    unmounted_at INTEGER,
    CONSTRAINT fk_volume_mounts__ossea_volume_id FOREIGN KEY (ossea_volume_id) REFERENCES ossea_volumes (id) ON DELETE CASCADE,
    CONSTRAINT fk_volume_mounts__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_volume_mounts__ossea_volume_id ON volume_mounts (ossea_volume_id);

CREATE INDEX IF NOT EXISTS ix_volume_mounts__job_id ON volume_mounts (job_id);

-- Figures of the volume service over time.
CREATE TABLE IF NOT EXISTS volume_daemon_metrics (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- When taken.
    "timestamp" INTEGER NOT NULL,
    -- Operations so far.
    total_operations INTEGER NOT NULL DEFAULT 0,
    -- Not ended.
    pending_operations INTEGER NOT NULL DEFAULT 0,
    -- Devices mapped.
    active_mappings INTEGER NOT NULL DEFAULT 0,
    -- Counts.
    operations_by_type TEXT CHECK (json_valid(operations_by_type)),
    -- Counts.
    operations_by_status TEXT CHECK (json_valid(operations_by_status)),
    -- Mean time of an operation in ms.
    average_response_time_ms REAL NOT NULL DEFAULT 0,
    -- Failed of all.
    error_rate_percent REAL NOT NULL DEFAULT 0,
    -- More.
    details TEXT CHECK (json_valid(details))
) STRICT;

CREATE INDEX IF NOT EXISTS ix_volume_daemon_metrics__timestamp ON volume_daemon_metrics (timestamp);

-- One volume served by NBD.
CREATE TABLE IF NOT EXISTS nbd_exports (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The VM.
    vm_context_id TEXT NOT NULL CHECK (length(vm_context_id) <= 64),
    -- The job it was made for.
    job_id TEXT CHECK (length(job_id) <= 64),
    -- The volume.
    volume_id TEXT NOT NULL CHECK (length(volume_id) <= 64),
    -- The disk.
    vm_disk_id INTEGER,
    -- The device.
    device_mapping_uuid TEXT CHECK (length(device_mapping_uuid) <= 64),
    -- `migration-vol-` and the volume's UUID.
    export_name TEXT NOT NULL CHECK (length(export_name) <= 255),
    -- Port of the server, where there is one.
    port INTEGER,
    -- The device or file behind it.
    device_path TEXT CHECK (length(device_path) <= 255),
    -- The lowest epoch it admits.
    epoch INTEGER NOT NULL DEFAULT 0,
    -- State of the export.
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'active', 'failed')),
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (export_name),
    CONSTRAINT fk_nbd_exports__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
    CONSTRAINT fk_nbd_exports__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE SET NULL,
    CONSTRAINT fk_nbd_exports__vm_disk_id FOREIGN KEY (vm_disk_id) REFERENCES vm_disks (id) ON DELETE CASCADE,
    CONSTRAINT fk_nbd_exports__device_mapping_uuid FOREIGN KEY (device_mapping_uuid) REFERENCES device_mappings (volume_uuid) ON DELETE CASCADE
) STRICT;

CREATE INDEX IF NOT EXISTS ix_nbd_exports__volume_id ON nbd_exports (volume_id);

CREATE INDEX IF NOT EXISTS ix_nbd_exports__vm_context_id ON nbd_exports (vm_context_id);

CREATE INDEX IF NOT EXISTS ix_nbd_exports__job_id ON nbd_exports (job_id);

CREATE INDEX IF NOT EXISTS ix_nbd_exports__vm_disk_id ON nbd_exports (vm_disk_id);

CREATE INDEX IF NOT EXISTS ix_nbd_exports__device_mapping_uuid ON nbd_exports (device_mapping_uuid);

-- Older scheme of export names by VM and disk unit.
CREATE TABLE IF NOT EXISTS vm_export_mappings (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The VM.
    vm_id TEXT NOT NULL CHECK (length(vm_id) <= 64),
    -- Unit of the disk.
    disk_unit_number INTEGER NOT NULL,
    -- The VM's name.
    vm_name TEXT NOT NULL CHECK (length(vm_name) <= 255),
    -- `migration-vm-ID-diskN`.
    export_name TEXT NOT NULL CHECK (length(export_name) <= 255),
    -- The device.
    device_path TEXT CHECK (length(device_path) <= 255),
    -- In use or not.
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive')),
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (export_name),
    UNIQUE (device_path),
    UNIQUE (vm_id, disk_unit_number)
) STRICT;

-- One complete, named point in time of all disks of a VM.
CREATE TABLE IF NOT EXISTS replica_points (
    -- `pt-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- The VM.
    vm_context_id TEXT NOT NULL CHECK (length(vm_context_id) <= 64),
    -- The job that made it; its id is kept when the job is deleted.
    job_id TEXT NOT NULL CHECK (length(job_id) <= 64),
    -- 1, 2, 3 .. within the context; the highest is the current point.
    seq INTEGER NOT NULL,
    -- committed: spools must still be applied; applied: the volumes hold it; superseded: a later one took its place.
    status TEXT NOT NULL DEFAULT 'committed' CHECK (status IN ('committed', 'applied', 'superseded')),
    -- The guest's file systems were at rest.
    quiesced INTEGER NOT NULL DEFAULT 0 CHECK (quiesced IN (0, 1)),
    -- The source's snapshot was taken.
    taken_at INTEGER NOT NULL,
    -- Disks in it.
    disk_count INTEGER NOT NULL,
    -- The commit.
    committed_at INTEGER NOT NULL,
    -- All spools applied.
    applied_at INTEGER,
    UNIQUE (vm_context_id, seq),
    CONSTRAINT fk_replica_points__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE
) STRICT;

CREATE INDEX IF NOT EXISTS ix_replica_points__status__committed_at ON replica_points (status, committed_at);

-- What one point holds of one disk.
CREATE TABLE IF NOT EXISTS replica_point_disks (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The point.
    point_id TEXT NOT NULL CHECK (length(point_id) <= 64),
    -- The disk.
    vm_disk_id INTEGER NOT NULL,
    -- The source's key of the disk.
    disk_key TEXT NOT NULL CHECK (length(disk_key) <= 64),
    -- The volume that holds it.
    volume_id TEXT NOT NULL CHECK (length(volume_id) <= 64),
    -- The source's mark of this state; none where the source has no change tracking.
    change_id TEXT CHECK (length(change_id) <= 255),
    -- Size of the disk at this point.
    capacity_bytes INTEGER NOT NULL CHECK (capacity_bytes >= 0),
    -- BLAKE3 of the first MiB of the volume at this point, in hex.
    first_digest TEXT NOT NULL CHECK (length(first_digest) <= 64),
    -- BLAKE3 of the last MiB.
    last_digest TEXT NOT NULL CHECK (length(last_digest) <= 64),
    -- The pass, as the volume's ledger names it.
    pass TEXT NOT NULL CHECK (length(pass) <= 191),
    -- Where the spool lies; none when the bytes went straight into the volume.
    spool TEXT CHECK (length(spool) <= 500),
    -- The volume holds it.
    applied INTEGER NOT NULL DEFAULT 0 CHECK (applied IN (0, 1)),
    UNIQUE (point_id, disk_key),
    CONSTRAINT fk_replica_point_disks__point_id FOREIGN KEY (point_id) REFERENCES replica_points (id) ON DELETE CASCADE,
    CONSTRAINT fk_replica_point_disks__vm_disk_id FOREIGN KEY (vm_disk_id) REFERENCES vm_disks (id) ON DELETE CASCADE
) STRICT;

CREATE INDEX IF NOT EXISTS ix_replica_point_disks__vm_disk_id ON replica_point_disks (vm_disk_id);

-- Where the ledger of a volume lies, by generation.
CREATE TABLE IF NOT EXISTS volume_ledgers (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The volume.
    volume_id TEXT NOT NULL CHECK (length(volume_id) <= 64),
    -- The volume's generation it speaks of.
    generation INTEGER NOT NULL,
    -- The ledger's file.
    path TEXT NOT NULL CHECK (length(path) <= 500),
    -- Made.
    created_at INTEGER NOT NULL,
    -- The generation was raised.
    voided_at INTEGER,
    UNIQUE (volume_id, generation),
    CONSTRAINT fk_volume_ledgers__volume_id FOREIGN KEY (volume_id) REFERENCES ossea_volumes (volume_id) ON DELETE CASCADE
) STRICT;
