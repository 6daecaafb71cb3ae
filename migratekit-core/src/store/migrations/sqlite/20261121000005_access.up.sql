-- Credentials, agents, clouds, sites, users, audit.

-- How to log in to a vCenter.
CREATE TABLE IF NOT EXISTS vmware_credentials (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Unique name.
    credential_name TEXT NOT NULL CHECK (length(credential_name) <= 255),
    -- Host.
    vcenter_host TEXT NOT NULL CHECK (length(vcenter_host) <= 255),
    -- User.
    username TEXT NOT NULL CHECK (length(username) <= 255),
    -- Sealed: an AES-256-GCM envelope.
    password_encrypted TEXT NOT NULL CHECK (length(password_encrypted) <= 4194303),
    -- Default datacenter.
    datacenter TEXT CHECK (length(datacenter) <= 255),
    -- The VMA that reaches this vCenter.
    enrollment_id TEXT CHECK (length(enrollment_id) <= 64),
    -- May be used.
    is_active INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    -- Taken where none is named.
    is_default INTEGER NOT NULL DEFAULT 0 CHECK (is_default IN (0, 1)),
    -- Who made it.
    created_by TEXT CHECK (length(created_by) <= 255),
    -- When.
    last_used INTEGER,
    -- How often.
    usage_count INTEGER NOT NULL DEFAULT 0,
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (credential_name),
    CONSTRAINT fk_vmware_credentials__enrollment_id FOREIGN KEY (enrollment_id) REFERENCES vma_enrollments (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_vmware_credentials__vcenter_host ON vmware_credentials (vcenter_host);

CREATE INDEX IF NOT EXISTS ix_vmware_credentials__enrollment_id ON vmware_credentials (enrollment_id);

-- Change ids over time.
CREATE TABLE IF NOT EXISTS cbt_history (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The VM.
    vm_context_id TEXT NOT NULL CHECK (length(vm_context_id) <= 64),
    -- The replication; the row stays when it is deleted.
    job_id TEXT CHECK (length(job_id) <= 64),
    -- The source's key of the disk.
    disk_id TEXT NOT NULL CHECK (length(disk_id) <= 64),
    -- The mark after the pass.
    change_id TEXT CHECK (length(change_id) <= 255),
    -- The one before.
    previous_change_id TEXT CHECK (length(previous_change_id) <= 255),
    -- What kind of pass.
    sync_type TEXT NOT NULL CHECK (sync_type IN ('full', 'incremental', 'compare')),
    -- Blocks that changed.
    blocks_changed INTEGER NOT NULL DEFAULT 0,
    -- Bytes moved.
    bytes_transferred INTEGER NOT NULL DEFAULT 0,
    -- Seconds it took.
    sync_duration_seconds INTEGER NOT NULL DEFAULT 0,
    -- Whether it ended well.
    sync_success INTEGER NOT NULL DEFAULT 1 CHECK (sync_success IN (0, 1)),
    -- When.
    created_at INTEGER NOT NULL,
    CONSTRAINT fk_cbt_history__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
    CONSTRAINT fk_cbt_history__job_id FOREIGN KEY (job_id) REFERENCES replication_jobs (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_cbt_history__vm_context_id__disk_id__id ON cbt_history (vm_context_id, disk_id, id);

CREATE INDEX IF NOT EXISTS ix_cbt_history__job_id ON cbt_history (job_id);

-- How a VMA becomes trusted.
CREATE TABLE IF NOT EXISTS vma_enrollments (
    -- `enr-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- The pairing code it came with.
    pairing_id TEXT CHECK (length(pairing_id) <= 64),
    -- Its SSH key.
    vma_public_key TEXT NOT NULL CHECK (length(vma_public_key) <= 4194303),
    -- Its name.
    vma_name TEXT NOT NULL CHECK (length(vma_name) <= 255),
    -- Its version.
    vma_version TEXT CHECK (length(vma_version) <= 64),
    -- Fingerprint of its key.
    vma_fingerprint TEXT NOT NULL CHECK (length(vma_fingerprint) <= 191),
    -- Where it came from.
    vma_ip_address TEXT CHECK (length(vma_ip_address) <= 64),
    -- To be signed; used once.
    challenge_nonce TEXT CHECK (length(challenge_nonce) <= 255),
    -- Its own port for the way back.
    reverse_port INTEGER,
    -- State of the enrollment.
    status TEXT NOT NULL DEFAULT 'pending_verification' CHECK (status IN ('pending_verification', 'awaiting_approval', 'approved', 'rejected', 'expired', 'revoked')),
    -- Who.
    approved_by TEXT CHECK (length(approved_by) <= 255),
    -- When.
    approved_at INTEGER,
    -- Not valid after.
    expires_at INTEGER NOT NULL,
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (reverse_port),
    CONSTRAINT fk_vma_enrollments__pairing_id FOREIGN KEY (pairing_id) REFERENCES vma_pairing_codes (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_vma_enrollments__vma_fingerprint ON vma_enrollments (vma_fingerprint);

CREATE INDEX IF NOT EXISTS ix_vma_enrollments__status__expires_at ON vma_enrollments (status, expires_at);

CREATE INDEX IF NOT EXISTS ix_vma_enrollments__pairing_id ON vma_enrollments (pairing_id);

-- Codes an operator hands out.
CREATE TABLE IF NOT EXISTS vma_pairing_codes (
    -- `pair-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- BLAKE3 of the code, in hex; the code is shown once.
    code_digest TEXT NOT NULL CHECK (length(code_digest) <= 64),
    -- Who.
    generated_by TEXT NOT NULL CHECK (length(generated_by) <= 255),
    -- What it was used for.
    used_by_enrollment_id TEXT CHECK (length(used_by_enrollment_id) <= 64),
    -- Not valid after.
    expires_at INTEGER NOT NULL,
    -- Used: once only.
    used_at INTEGER,
    -- Made.
    created_at INTEGER NOT NULL,
    UNIQUE (code_digest),
    CONSTRAINT fk_vma_pairing_codes__used_by_enrollment_id FOREIGN KEY (used_by_enrollment_id) REFERENCES vma_enrollments (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_vma_pairing_codes__used_by_enrollment_id ON vma_pairing_codes (used_by_enrollment_id);

-- Whether an approved VMA is connected.
CREATE TABLE IF NOT EXISTS vma_active_connections (
    -- `conn-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- The enrollment.
    enrollment_id TEXT NOT NULL CHECK (length(enrollment_id) <= 64),
    -- Its name.
    vma_name TEXT NOT NULL CHECK (length(vma_name) <= 255),
    -- Fingerprint of its key.
    vma_fingerprint TEXT NOT NULL CHECK (length(vma_fingerprint) <= 191),
    -- The user of the tunnel.
    ssh_user TEXT NOT NULL DEFAULT 'vma_tunnel' CHECK (length(ssh_user) <= 64),
    -- State of the connection.
    connection_status TEXT NOT NULL DEFAULT 'disconnected' CHECK (connection_status IN ('connected', 'disconnected', 'revoked')),
    -- Last sign of life.
    last_seen_at INTEGER,
    -- Since when.
    connected_at INTEGER,
    -- Revoked.
    revoked_at INTEGER,
    -- By whom.
    revoked_by TEXT CHECK (length(revoked_by) <= 255),
    UNIQUE (enrollment_id),
    CONSTRAINT fk_vma_active_connections__enrollment_id FOREIGN KEY (enrollment_id) REFERENCES vma_enrollments (id) ON DELETE CASCADE
) STRICT;

-- What happened around a VMA; stays when the enrollment goes.
CREATE TABLE IF NOT EXISTS vma_connection_audit (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The enrollment, while it exists.
    enrollment_id TEXT CHECK (length(enrollment_id) <= 64),
    -- Copy of its name.
    vma_name TEXT CHECK (length(vma_name) <= 255),
    -- What.
    event_type TEXT NOT NULL CHECK (event_type IN ('enrollment', 'verification', 'approval', 'rejection', 'connection', 'disconnection', 'revocation')),
    -- Fingerprint of its key.
    vma_fingerprint TEXT CHECK (length(vma_fingerprint) <= 191),
    -- From where.
    source_ip TEXT CHECK (length(source_ip) <= 64),
    -- By what.
    user_agent TEXT CHECK (length(user_agent) <= 255),
    -- Who.
    approved_by TEXT CHECK (length(approved_by) <= 255),
    -- More.
    event_details TEXT CHECK (json_valid(event_details)),
    -- When.
    created_at INTEGER NOT NULL,
    CONSTRAINT fk_vma_connection_audit__enrollment_id FOREIGN KEY (enrollment_id) REFERENCES vma_enrollments (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_vma_connection_audit__enrollment_id__id ON vma_connection_audit (enrollment_id, id);

CREATE INDEX IF NOT EXISTS ix_vma_connection_audit__created_at__id ON vma_connection_audit (created_at, id);

-- How to reach a CloudStack.
CREATE TABLE IF NOT EXISTS ossea_configs (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Unique name.
    name TEXT NOT NULL CHECK (length(name) <= 255),
    -- Address.
    api_url TEXT NOT NULL CHECK (length(api_url) <= 500),
    -- Sealed: an AES-256-GCM envelope.
    api_key_encrypted TEXT NOT NULL CHECK (length(api_key_encrypted) <= 4194303),
    -- Sealed likewise.
    secret_key_encrypted TEXT NOT NULL CHECK (length(secret_key_encrypted) <= 4194303),
    -- Domain.
    domain TEXT CHECK (length(domain) <= 255),
    -- Zone.
    zone TEXT CHECK (length(zone) <= 191),
    -- Template for failover VMs.
    template_id TEXT CHECK (length(template_id) <= 191),
    -- Default network.
    network_id TEXT CHECK (length(network_id) <= 191),
    -- Offering for failover VMs.
    service_offering_id TEXT CHECK (length(service_offering_id) <= 191),
    -- Offering for volumes.
    disk_offering_id TEXT CHECK (length(disk_offering_id) <= 191),
    -- The appliance's own machine there.
    oma_vm_id TEXT CHECK (length(oma_vm_id) <= 191),
    -- May be used.
    is_active INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (name)
) STRICT;

-- Kept for old rows; nothing uses it.
CREATE TABLE IF NOT EXISTS linstor_configs (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Unique name.
    name TEXT NOT NULL CHECK (length(name) <= 255),
    -- Address.
    api_url TEXT NOT NULL CHECK (length(api_url) <= 500),
    -- Port.
    api_port INTEGER NOT NULL DEFAULT 3370,
    -- Protocol.
    api_protocol TEXT NOT NULL DEFAULT 'https' CHECK (api_protocol IN ('http', 'https')),
    -- Sealed.
    api_key_encrypted TEXT CHECK (length(api_key_encrypted) <= 4194303),
    -- Sealed.
    api_secret_encrypted TEXT CHECK (length(api_secret_encrypted) <= 4194303),
    -- Seconds.
    connection_timeout_seconds INTEGER NOT NULL DEFAULT 30,
    -- How often.
    retry_attempts INTEGER NOT NULL DEFAULT 3,
    -- May be used.
    is_active INTEGER NOT NULL DEFAULT 0 CHECK (is_active IN (0, 1)),
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (name)
) STRICT;

-- A folder of machines and a folder for volumes.
CREATE TABLE IF NOT EXISTS local_sites (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Unique name.
    name TEXT NOT NULL CHECK (length(name) <= 255),
    -- Folder of machines: a TOML file and disk images each.
    machines_path TEXT NOT NULL CHECK (length(machines_path) <= 500),
    -- Folder that takes the volumes.
    volumes_path TEXT NOT NULL CHECK (length(volumes_path) <= 500),
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (name)
) STRICT;

-- Who may log in.
CREATE TABLE IF NOT EXISTS users (
    -- `usr-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- Unique name.
    name TEXT NOT NULL CHECK (length(name) <= 255),
    -- What it may do.
    role TEXT NOT NULL CHECK (role IN ('admin', 'operator', 'viewer', 'vma')),
    -- Salted hash; none for one that signs in by token only.
    password_hash TEXT CHECK (length(password_hash) <= 4194303),
    -- May log in.
    is_active INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    -- Last good one.
    last_login INTEGER,
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (name)
) STRICT;

-- Tokens for programs.
CREATE TABLE IF NOT EXISTS api_tokens (
    -- `tok-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- Whose.
    user_id TEXT NOT NULL CHECK (length(user_id) <= 64),
    -- For people.
    name TEXT NOT NULL CHECK (length(name) <= 255),
    -- BLAKE3 of the token, in hex; the token itself is shown once.
    digest TEXT NOT NULL CHECK (length(digest) <= 64),
    -- Not valid after.
    expires_at INTEGER,
    -- When.
    last_used INTEGER,
    -- Revoked.
    revoked_at INTEGER,
    -- Made.
    created_at INTEGER NOT NULL,
    UNIQUE (digest),
    CONSTRAINT fk_api_tokens__user_id FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) STRICT;

CREATE INDEX IF NOT EXISTS ix_api_tokens__user_id ON api_tokens (user_id);

-- Who did what; stays when its subject goes.
CREATE TABLE IF NOT EXISTS audit_log (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- When.
    created_at INTEGER NOT NULL,
    -- Who: a user's name, `cli`, a VMA's fingerprint.
    actor TEXT NOT NULL CHECK (length(actor) <= 255),
    -- Stable code.
    action TEXT NOT NULL CHECK (length(action) <= 64),
    -- Kind of thing.
    subject_kind TEXT NOT NULL CHECK (length(subject_kind) <= 64),
    -- Its id.
    subject_id TEXT NOT NULL CHECK (length(subject_id) <= 191),
    -- Allowed and done.
    success INTEGER NOT NULL CHECK (success IN (0, 1)),
    -- From where.
    source_ip TEXT CHECK (length(source_ip) <= 64),
    -- More.
    details TEXT CHECK (json_valid(details))
) STRICT;

CREATE INDEX IF NOT EXISTS ix_audit_log__created_at__id ON audit_log (created_at, id);

CREATE INDEX IF NOT EXISTS ix_audit_log__subject_kind__subject_id__id ON audit_log (subject_kind, subject_id, id);
