-- Contexts, disks, replications, failovers, networks.

-- One VM under management: the root of everything known of it.
CREATE TABLE IF NOT EXISTS vm_replication_contexts (
    -- `ctx-` and a UUID v7.
    context_id TEXT NOT NULL PRIMARY KEY CHECK (length(context_id) <= 64),
    -- The VM's name; names may repeat, also within one vCenter (folders).
    vm_name TEXT NOT NULL CHECK (length(vm_name) <= 255),
    -- The platform's own id of the machine (VMware: `vm-123`).
    vmware_vm_id TEXT NOT NULL CHECK (length(vmware_vm_id) <= 191),
    -- Instance UUID; another one under the same id means another machine.
    vmware_instance_uuid TEXT CHECK (length(vmware_instance_uuid) <= 64),
    -- Inventory path.
    vm_path TEXT NOT NULL CHECK (length(vm_path) <= 500),
    -- The vCenter, or the name of the local site.
    vcenter_host TEXT NOT NULL CHECK (length(vcenter_host) <= 255),
    -- Datacenter, empty for a local site.
    datacenter TEXT NOT NULL CHECK (length(datacenter) <= 255),
    -- State of the context; changed only by the model's transition function.
    current_status TEXT NOT NULL DEFAULT 'discovered' CHECK (current_status IN ('discovered', 'replicating', 'ready_for_failover', 'failed_over_test', 'failed_over_live', 'completed', 'failed', 'cleanup_required')),
    -- The last replication that ended well.
    last_successful_job_id TEXT CHECK (length(last_successful_job_id) <= 64),
    -- Replications that ended.
    total_jobs_run INTEGER NOT NULL DEFAULT 0,
    -- Of these, ended well.
    successful_jobs INTEGER NOT NULL DEFAULT 0,
    -- Of these, failed.
    failed_jobs INTEGER NOT NULL DEFAULT 0,
    -- Virtual processors.
    cpu_count INTEGER NOT NULL DEFAULT 0,
    -- Memory in bytes.
    memory_bytes INTEGER NOT NULL DEFAULT 0,
    -- Family of the guest operating system.
    os_type TEXT NOT NULL DEFAULT 'unknown' CHECK (os_type IN ('windows', 'linux', 'other', 'unknown')),
    -- As last seen.
    power_state TEXT NOT NULL DEFAULT 'unknown' CHECK (power_state IN ('on', 'off', 'suspended', 'unknown')),
    -- As last seen.
    vm_tools_version TEXT CHECK (length(vm_tools_version) <= 64),
    -- Added.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    -- First replication began.
    first_job_at INTEGER,
    -- Last replication began.
    last_job_at INTEGER,
    -- `current_status` last changed.
    last_status_change INTEGER NOT NULL,
    -- Added by discovery, not by hand.
    auto_added INTEGER NOT NULL DEFAULT 0 CHECK (auto_added IN (0, 1)),
    -- The last job a schedule made for it (kept after the job is gone).
    last_scheduled_job_id TEXT CHECK (length(last_scheduled_job_id) <= 64),
    -- When a schedule will start it next.
    next_scheduled_at INTEGER,
    -- Schedules may start it.
    scheduler_enabled INTEGER NOT NULL DEFAULT 1 CHECK (scheduler_enabled IN (0, 1)),
    -- The credential that reaches its vCenter.
    credential_id INTEGER,
    -- The VMA it is reached through.
    enrollment_id TEXT CHECK (length(enrollment_id) <= 64),
    -- The cloud its replica lives in.
    ossea_config_id INTEGER,
    -- The local site it lives on, when its source is one.
    local_site_id INTEGER,
    -- What the last operation did, for people.
    last_operation_summary TEXT CHECK (json_valid(last_operation_summary)),
    -- Raised by one whenever a runner takes a job of this context; older writers are fenced.
    epoch INTEGER NOT NULL DEFAULT 0,
    UNIQUE (vmware_vm_id, vcenter_host),
    CONSTRAINT fk_vm_replication_contexts__last_successful_job_id FOREIGN KEY (last_successful_job_id) REFERENCES replication_jobs (id) ON DELETE SET NULL,
    CONSTRAINT fk_vm_replication_contexts__credential_id FOREIGN KEY (credential_id) REFERENCES vmware_credentials (id) ON DELETE SET NULL,
    CONSTRAINT fk_vm_replication_contexts__enrollment_id FOREIGN KEY (enrollment_id) REFERENCES vma_enrollments (id) ON DELETE SET NULL,
    CONSTRAINT fk_vm_replication_contexts__ossea_config_id FOREIGN KEY (ossea_config_id) REFERENCES ossea_configs (id) ON DELETE RESTRICT,
    CONSTRAINT fk_vm_replication_contexts__local_site_id FOREIGN KEY (local_site_id) REFERENCES local_sites (id) ON DELETE RESTRICT
) STRICT;

CREATE INDEX IF NOT EXISTS ix_vm_replication_contexts__vm_name__context_id ON vm_replication_contexts (vm_name, context_id);

CREATE INDEX IF NOT EXISTS ix_vm_replication_contexts__current_status ON vm_replication_contexts (current_status);

CREATE INDEX IF NOT EXISTS ix_vm_replication_contexts__last_successful_job_id ON vm_replication_contexts (last_successful_job_id);

CREATE INDEX IF NOT EXISTS ix_vm_replication_contexts__credential_id ON vm_replication_contexts (credential_id);

CREATE INDEX IF NOT EXISTS ix_vm_replication_contexts__enrollment_id ON vm_replication_contexts (enrollment_id);

CREATE INDEX IF NOT EXISTS ix_vm_replication_contexts__ossea_config_id ON vm_replication_contexts (ossea_config_id);

CREATE INDEX IF NOT EXISTS ix_vm_replication_contexts__local_site_id ON vm_replication_contexts (local_site_id);

-- One replication: a run that brings the replica of a VM up to date. Has the id of its job.
CREATE TABLE IF NOT EXISTS replication_jobs (
    -- The job's id.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- The VM.
    vm_context_id TEXT NOT NULL CHECK (length(vm_context_id) <= 64),
    -- As it was at the start.
    source_vm_id TEXT CHECK (length(source_vm_id) <= 191),
    -- As it was at the start.
    source_vm_name TEXT NOT NULL CHECK (length(source_vm_name) <= 255),
    -- As it was at the start.
    source_vm_path TEXT CHECK (length(source_vm_path) <= 500),
    -- As it was at the start.
    v_center_host TEXT CHECK (length(v_center_host) <= 255),
    -- As it was at the start.
    datacenter TEXT CHECK (length(datacenter) <= 255),
    -- What was asked for.
    replication_type TEXT NOT NULL CHECK (replication_type IN ('full', 'incremental', 'auto')),
    -- Network chosen at the start.
    target_network TEXT CHECK (length(target_network) <= 255),
    -- State of the replication.
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'initializing', 'analyzing', 'provisioning', 'attaching', 'configuring', 'ready_for_sync', 'snapshotting', 'replicating', 'finalizing', 'completed', 'failed', 'cancelled', 'needs_attention')),
    -- 0 to 100; never falls.
    progress_percent INTEGER NOT NULL DEFAULT 0 CHECK (progress_percent BETWEEN 0 AND 100),
    -- What it does now.
    current_operation TEXT CHECK (length(current_operation) <= 255),
    -- Bytes moved.
    bytes_transferred INTEGER NOT NULL DEFAULT 0,
    -- Bytes to move, as known.
    total_bytes INTEGER NOT NULL DEFAULT 0,
    -- Bytes a second, smoothed.
    transfer_speed_bps INTEGER NOT NULL DEFAULT 0,
    -- Why it failed.
    error_message TEXT CHECK (length(error_message) <= 4194303),
    -- Change id of the first disk (each disk has its own in `vm_disks`).
    change_id TEXT CHECK (length(change_id) <= 255),
    -- The one before.
    previous_change_id TEXT CHECK (length(previous_change_id) <= 255),
    -- Our snapshot on the source.
    snapshot_id TEXT CHECK (length(snapshot_id) <= 191),
    -- Port of the exports, where there is one.
    nbd_port INTEGER,
    -- Export of the first disk.
    nbd_export_name TEXT CHECK (length(nbd_export_name) <= 255),
    -- Device of the first disk.
    target_device TEXT CHECK (length(target_device) <= 255),
    -- Target cloud.
    ossea_config_id INTEGER,
    -- The point this run committed.
    point_id TEXT CHECK (length(point_id) <= 64),
    -- Asked for.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    -- First step began.
    started_at INTEGER,
    -- Ended.
    completed_at INTEGER,
    -- The VMA's word for the pass.
    vma_sync_type TEXT CHECK (length(vma_sync_type) <= 32),
    -- The VMA's phase.
    vma_current_phase TEXT CHECK (length(vma_current_phase) <= 64),
    -- MB a second as the VMA reports it.
    vma_throughput_mbps REAL NOT NULL DEFAULT 0,
    -- Seconds left as the VMA reports it.
    vma_eta_seconds INTEGER,
    -- The VMA was last heard.
    vma_last_poll_at INTEGER,
    -- Class of the failure.
    vma_error_classification TEXT CHECK (length(vma_error_classification) <= 64),
    -- Its words.
    vma_error_details TEXT CHECK (length(vma_error_details) <= 4194303),
    -- 0 to 85 while it sets up.
    setup_progress_percent INTEGER NOT NULL DEFAULT 0 CHECK (setup_progress_percent BETWEEN 0 AND 100),
    -- The execution that started it.
    schedule_execution_id TEXT CHECK (length(schedule_execution_id) <= 64),
    -- Who or what started it.
    scheduled_by TEXT CHECK (length(scheduled_by) <= 255),
    -- The group it was started for.
    vm_group_id TEXT CHECK (length(vm_group_id) <= 64),
    CONSTRAINT fk_replication_jobs__id FOREIGN KEY (id) REFERENCES job_tracking (id) ON DELETE CASCADE,
    CONSTRAINT fk_replication_jobs__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
    CONSTRAINT fk_replication_jobs__ossea_config_id FOREIGN KEY (ossea_config_id) REFERENCES ossea_configs (id) ON DELETE RESTRICT,
    CONSTRAINT fk_replication_jobs__schedule_execution_id FOREIGN KEY (schedule_execution_id) REFERENCES schedule_executions (id) ON DELETE SET NULL,
    CONSTRAINT fk_replication_jobs__vm_group_id FOREIGN KEY (vm_group_id) REFERENCES vm_machine_groups (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_replication_jobs__status__nbd_export_name ON replication_jobs (status, nbd_export_name);

CREATE INDEX IF NOT EXISTS ix_replication_jobs__status__updated_at ON replication_jobs (status, updated_at);

CREATE INDEX IF NOT EXISTS ix_replication_jobs__status__completed_at ON replication_jobs (status, completed_at);

CREATE INDEX IF NOT EXISTS ix_replication_jobs__vm_context_id__created_at__id ON replication_jobs (vm_context_id, created_at, id);

CREATE INDEX IF NOT EXISTS ix_replication_jobs__ossea_config_id ON replication_jobs (ossea_config_id);

CREATE INDEX IF NOT EXISTS ix_replication_jobs__schedule_execution_id ON replication_jobs (schedule_execution_id);

CREATE INDEX IF NOT EXISTS ix_replication_jobs__vm_group_id ON replication_jobs (vm_group_id);

-- One disk of a VM. Rows are updated in place; no job's end or deletion removes one.
CREATE TABLE IF NOT EXISTS vm_disks (
    -- Row id; stays for the disk's life.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The VM.
    vm_context_id TEXT NOT NULL CHECK (length(vm_context_id) <= 64),
    -- The replication that last touched it.
    job_id TEXT CHECK (length(job_id) <= 64),
    -- The source's key of the disk: `disk-2000`.
    disk_id TEXT NOT NULL CHECK (length(disk_id) <= 64),
    -- Path of the disk's file at the source.
    vm_dk_path TEXT NOT NULL CHECK (length(vm_dk_path) <= 500),
    -- Where it lies; empty for a source that has none.
    datastore TEXT NOT NULL CHECK (length(datastore) <= 255),
    -- Unit on its controller.
    unit_number INTEGER,
    -- The source's label.
    label TEXT NOT NULL CHECK (length(label) <= 255),
    -- Exact size at the source.
    capacity_bytes INTEGER NOT NULL CHECK (capacity_bytes >= 0),
    -- How its space is allotted.
    provisioning_type TEXT NOT NULL DEFAULT 'unknown' CHECK (provisioning_type IN ('thin', 'thick', 'eager_zeroed', 'unknown')),
    -- The volume that holds its replica.
    ossea_volume_id INTEGER,
    -- Change id of the last committed point.
    disk_change_id TEXT CHECK (length(disk_change_id) <= 255),
    -- Bytes moved in the present or last pass.
    bytes_synced INTEGER NOT NULL DEFAULT 0,
    -- The source was found to have no such disk any more; its replica is kept.
    removed_at INTEGER,
    -- As at the last discovery.
    cpu_count INTEGER,
    -- As at the last discovery.
    memory_bytes INTEGER,
    -- As at the last discovery.
    os_type TEXT CHECK (length(os_type) <= 255),
    -- As at the last discovery.
    vm_tools_version TEXT CHECK (length(vm_tools_version) <= 64),
    -- Network cards as at the last discovery.
    network_config TEXT CHECK (json_valid(network_config)),
    -- As at the last discovery.
    display_name TEXT CHECK (length(display_name) <= 255),
    -- The VM's notes.
    annotation TEXT CHECK (length(annotation) <= 4194303),
    -- As at the last discovery.
    power_state TEXT CHECK (length(power_state) <= 32),
    -- The VM's UUID.
    vmware_uuid TEXT CHECK (length(vmware_uuid) <= 64),
    -- The disk's own UUID.
    disk_uuid TEXT CHECK (length(disk_uuid) <= 64),
    -- bios or efi.
    bios_setup TEXT CHECK (length(bios_setup) <= 64),
    -- First seen.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (vm_context_id, disk_id),
    CONSTRAINT fk_vm_disks__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
    CONSTRAINT fk_vm_disks__job_id FOREIGN KEY (job_id) REFERENCES replication_jobs (id) ON DELETE SET NULL,
    CONSTRAINT fk_vm_disks__ossea_volume_id FOREIGN KEY (ossea_volume_id) REFERENCES ossea_volumes (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_vm_disks__job_id ON vm_disks (job_id);

CREATE INDEX IF NOT EXISTS ix_vm_disks__ossea_volume_id ON vm_disks (ossea_volume_id);

-- One failover, live or test.
CREATE TABLE IF NOT EXISTS failover_jobs (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The job's id.
    job_id TEXT NOT NULL CHECK (length(job_id) <= 64),
    -- The VM.
    vm_context_id TEXT NOT NULL CHECK (length(vm_context_id) <= 64),
    -- The replication whose point is used.
    replication_job_id TEXT CHECK (length(replication_job_id) <= 64),
    -- The point it stands on.
    point_id TEXT CHECK (length(point_id) <= 64),
    -- Which kind.
    job_type TEXT NOT NULL CHECK (job_type IN ('live', 'test')),
    -- State of the failover.
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'validating', 'snapshotting', 'creating_vm', 'switching_volume', 'powering_on', 'completed', 'failed', 'cleanup', 'reverting', 'rolled_back', 'cleanup_required', 'cancelled')),
    -- The source VM's name at the start.
    source_vm_name TEXT NOT NULL CHECK (length(source_vm_name) <= 255),
    -- The source VM at the start.
    source_vm_spec TEXT CHECK (json_valid(source_vm_spec)),
    -- The machine made in the cloud.
    destination_vm_id TEXT CHECK (length(destination_vm_id) <= 191),
    -- The mapping used.
    network_mappings TEXT CHECK (json_valid(network_mappings)),
    -- Why it failed.
    error_message TEXT CHECK (length(error_message) <= 4194303),
    -- When a test ends by itself.
    cleanup_at INTEGER,
    -- Asked for.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    -- First step began.
    started_at INTEGER,
    -- Ended.
    completed_at INTEGER,
    UNIQUE (job_id),
    CONSTRAINT fk_failover_jobs__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE CASCADE,
    CONSTRAINT fk_failover_jobs__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
    CONSTRAINT fk_failover_jobs__replication_job_id FOREIGN KEY (replication_job_id) REFERENCES replication_jobs (id) ON DELETE SET NULL,
    CONSTRAINT fk_failover_jobs__point_id FOREIGN KEY (point_id) REFERENCES replica_points (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_failover_jobs__vm_context_id__id ON failover_jobs (vm_context_id, id);

CREATE INDEX IF NOT EXISTS ix_failover_jobs__replication_job_id ON failover_jobs (replication_job_id);

CREATE INDEX IF NOT EXISTS ix_failover_jobs__point_id ON failover_jobs (point_id);

-- Which network of the cloud takes the place of one of the source.
CREATE TABLE IF NOT EXISTS network_mappings (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The VM.
    vm_context_id TEXT NOT NULL CHECK (length(vm_context_id) <= 64),
    -- Network at the source.
    source_network_name TEXT NOT NULL CHECK (length(source_network_name) <= 255),
    -- Network in the cloud.
    destination_network_id TEXT NOT NULL CHECK (length(destination_network_id) <= 191),
    -- Its name.
    destination_network_name TEXT NOT NULL CHECK (length(destination_network_name) <= 255),
    -- For test failovers.
    is_test_network INTEGER NOT NULL DEFAULT 0 CHECK (is_test_network IN (0, 1)),
    -- Last check.
    validation_status TEXT NOT NULL DEFAULT 'pending' CHECK (validation_status IN ('pending', 'valid', 'invalid')),
    -- What it is for.
    mapping_type TEXT NOT NULL DEFAULT 'both' CHECK (mapping_type IN ('live', 'test', 'both')),
    -- How it was chosen.
    network_strategy TEXT CHECK (length(network_strategy) <= 64),
    -- When it was last checked.
    last_validated INTEGER,
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (vm_context_id, source_network_name, is_test_network),
    CONSTRAINT fk_network_mappings__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE
) STRICT;
