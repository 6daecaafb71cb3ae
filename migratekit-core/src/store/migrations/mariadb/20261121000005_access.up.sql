-- Credentials, agents, clouds, sites, users, audit.

-- How to log in to a vCenter.
CREATE TABLE IF NOT EXISTS vmware_credentials (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    credential_name VARCHAR(255) NOT NULL COMMENT 'Unique name.',
    vcenter_host VARCHAR(255) NOT NULL COMMENT 'Host.',
    username VARCHAR(255) NOT NULL COMMENT 'User.',
    password_encrypted MEDIUMTEXT NOT NULL COMMENT 'Sealed: an AES-256-GCM envelope.',
    datacenter VARCHAR(255) COMMENT 'Default datacenter.',
    enrollment_id VARCHAR(64) COMMENT 'The VMA that reaches this vCenter.',
    is_active BOOLEAN NOT NULL DEFAULT 1 COMMENT 'May be used.' CHECK (is_active IN (0, 1)),
    is_default BOOLEAN NOT NULL DEFAULT 0 COMMENT 'Taken where none is named.' CHECK (is_default IN (0, 1)),
    created_by VARCHAR(255) COMMENT 'Who made it.',
    last_used BIGINT COMMENT 'When.',
    usage_count BIGINT NOT NULL DEFAULT 0 COMMENT 'How often.',
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `credential_name` (credential_name),
    KEY `ix vcenter_host` (vcenter_host),
    KEY `ix enrollment_id` (enrollment_id),
    CONSTRAINT fk_vmware_credentials__enrollment_id FOREIGN KEY (enrollment_id) REFERENCES vma_enrollments (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='How to log in to a vCenter.';

-- Change ids over time.
CREATE TABLE IF NOT EXISTS cbt_history (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    vm_context_id VARCHAR(64) NOT NULL COMMENT 'The VM.',
    job_id VARCHAR(64) COMMENT 'The replication; the row stays when it is deleted.',
    disk_id VARCHAR(64) NOT NULL COMMENT 'The source''s key of the disk.',
    change_id VARCHAR(255) COMMENT 'The mark after the pass.',
    previous_change_id VARCHAR(255) COMMENT 'The one before.',
    sync_type VARCHAR(32) NOT NULL COMMENT 'What kind of pass.' CHECK (sync_type IN ('full', 'incremental', 'compare')),
    blocks_changed BIGINT NOT NULL DEFAULT 0 COMMENT 'Blocks that changed.',
    bytes_transferred BIGINT NOT NULL DEFAULT 0 COMMENT 'Bytes moved.',
    sync_duration_seconds BIGINT NOT NULL DEFAULT 0 COMMENT 'Seconds it took.',
    sync_success BOOLEAN NOT NULL DEFAULT 1 COMMENT 'Whether it ended well.' CHECK (sync_success IN (0, 1)),
    created_at BIGINT NOT NULL COMMENT 'When.',
    PRIMARY KEY (id),
    KEY `ix vm_context_id,disk_id,id` (vm_context_id, disk_id, id),
    KEY `ix job_id` (job_id),
    CONSTRAINT fk_cbt_history__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
    CONSTRAINT fk_cbt_history__job_id FOREIGN KEY (job_id) REFERENCES replication_jobs (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Change ids over time.';

-- How a VMA becomes trusted.
CREATE TABLE IF NOT EXISTS vma_enrollments (
    id VARCHAR(64) NOT NULL COMMENT '`enr-` and a UUID v7.',
    pairing_id VARCHAR(64) COMMENT 'The pairing code it came with.',
    vma_public_key MEDIUMTEXT NOT NULL COMMENT 'Its SSH key.',
    vma_name VARCHAR(255) NOT NULL COMMENT 'Its name.',
    vma_version VARCHAR(64) COMMENT 'Its version.',
    vma_fingerprint VARCHAR(191) NOT NULL COMMENT 'Fingerprint of its key.',
    vma_ip_address VARCHAR(64) COMMENT 'Where it came from.',
    challenge_nonce VARCHAR(255) COMMENT 'To be signed; used once.',
    reverse_port BIGINT COMMENT 'Its own port for the way back.',
    status VARCHAR(32) NOT NULL DEFAULT 'pending_verification' COMMENT 'State of the enrollment.' CHECK (status IN ('pending_verification', 'awaiting_approval', 'approved', 'rejected', 'expired', 'revoked')),
    approved_by VARCHAR(255) COMMENT 'Who.',
    approved_at BIGINT COMMENT 'When.',
    expires_at BIGINT NOT NULL COMMENT 'Not valid after.',
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `reverse_port` (reverse_port),
    KEY `ix vma_fingerprint` (vma_fingerprint),
    KEY `ix status,expires_at` (status, expires_at),
    KEY `ix pairing_id` (pairing_id),
    CONSTRAINT fk_vma_enrollments__pairing_id FOREIGN KEY (pairing_id) REFERENCES vma_pairing_codes (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='How a VMA becomes trusted.';

-- Codes an operator hands out.
CREATE TABLE IF NOT EXISTS vma_pairing_codes (
    id VARCHAR(64) NOT NULL COMMENT '`pair-` and a UUID v7.',
    code_digest VARCHAR(64) NOT NULL COMMENT 'BLAKE3 of the code, in hex; the code is shown once.',
    generated_by VARCHAR(255) NOT NULL COMMENT 'Who.',
    used_by_enrollment_id VARCHAR(64) COMMENT 'What it was used for.',
    expires_at BIGINT NOT NULL COMMENT 'Not valid after.',
    used_at BIGINT COMMENT 'Used: once only.',
    created_at BIGINT NOT NULL COMMENT 'Made.',
    PRIMARY KEY (id),
    UNIQUE KEY `code_digest` (code_digest),
    KEY `ix used_by_enrollment_id` (used_by_enrollment_id),
    CONSTRAINT fk_vma_pairing_codes__used_by_enrollment_id FOREIGN KEY (used_by_enrollment_id) REFERENCES vma_enrollments (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Codes an operator hands out.';

-- Whether an approved VMA is connected.
CREATE TABLE IF NOT EXISTS vma_active_connections (
    id VARCHAR(64) NOT NULL COMMENT '`conn-` and a UUID v7.',
    enrollment_id VARCHAR(64) NOT NULL COMMENT 'The enrollment.',
    vma_name VARCHAR(255) NOT NULL COMMENT 'Its name.',
    vma_fingerprint VARCHAR(191) NOT NULL COMMENT 'Fingerprint of its key.',
    ssh_user VARCHAR(64) NOT NULL DEFAULT 'vma_tunnel' COMMENT 'The user of the tunnel.',
    connection_status VARCHAR(32) NOT NULL DEFAULT 'disconnected' COMMENT 'State of the connection.' CHECK (connection_status IN ('connected', 'disconnected', 'revoked')),
    last_seen_at BIGINT COMMENT 'Last sign of life.',
    connected_at BIGINT COMMENT 'Since when.',
    revoked_at BIGINT COMMENT 'Revoked.',
    revoked_by VARCHAR(255) COMMENT 'By whom.',
    PRIMARY KEY (id),
    UNIQUE KEY `enrollment_id` (enrollment_id),
    CONSTRAINT fk_vma_active_connections__enrollment_id FOREIGN KEY (enrollment_id) REFERENCES vma_enrollments (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Whether an approved VMA is connected.';

-- What happened around a VMA; stays when the enrollment goes.
CREATE TABLE IF NOT EXISTS vma_connection_audit (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    enrollment_id VARCHAR(64) COMMENT 'The enrollment, while it exists.',
    vma_name VARCHAR(255) COMMENT 'Copy of its name.',
    event_type VARCHAR(32) NOT NULL COMMENT 'What.' CHECK (event_type IN ('enrollment', 'verification', 'approval', 'rejection', 'connection', 'disconnection', 'revocation')),
    vma_fingerprint VARCHAR(191) COMMENT 'Fingerprint of its key.',
    source_ip VARCHAR(64) COMMENT 'From where.',
    user_agent VARCHAR(255) COMMENT 'By what.',
    approved_by VARCHAR(255) COMMENT 'Who.',
    event_details JSON COMMENT 'More.',
    created_at BIGINT NOT NULL COMMENT 'When.',
    PRIMARY KEY (id),
    KEY `ix enrollment_id,id` (enrollment_id, id),
    KEY `ix created_at,id` (created_at, id),
    CONSTRAINT fk_vma_connection_audit__enrollment_id FOREIGN KEY (enrollment_id) REFERENCES vma_enrollments (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='What happened around a VMA; stays when the enrollment goes.';

-- How to reach a CloudStack.
CREATE TABLE IF NOT EXISTS ossea_configs (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    name VARCHAR(255) NOT NULL COMMENT 'Unique name.',
    api_url VARCHAR(500) NOT NULL COMMENT 'Address.',
    api_key_encrypted MEDIUMTEXT NOT NULL COMMENT 'Sealed: an AES-256-GCM envelope.',
    secret_key_encrypted MEDIUMTEXT NOT NULL COMMENT 'Sealed likewise.',
    domain VARCHAR(255) COMMENT 'Domain.',
    zone VARCHAR(191) COMMENT 'Zone.',
    template_id VARCHAR(191) COMMENT 'Template for failover VMs.',
    network_id VARCHAR(191) COMMENT 'Default network.',
    service_offering_id VARCHAR(191) COMMENT 'Offering for failover VMs.',
    disk_offering_id VARCHAR(191) COMMENT 'Offering for volumes.',
    oma_vm_id VARCHAR(191) COMMENT 'The appliance''s own machine there.',
    is_active BOOLEAN NOT NULL DEFAULT 1 COMMENT 'May be used.' CHECK (is_active IN (0, 1)),
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `name` (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='How to reach a CloudStack.';

-- Kept for old rows; nothing uses it.
CREATE TABLE IF NOT EXISTS linstor_configs (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    name VARCHAR(255) NOT NULL COMMENT 'Unique name.',
    api_url VARCHAR(500) NOT NULL COMMENT 'Address.',
    api_port BIGINT NOT NULL DEFAULT 3370 COMMENT 'Port.',
    api_protocol VARCHAR(32) NOT NULL DEFAULT 'https' COMMENT 'Protocol.' CHECK (api_protocol IN ('http', 'https')),
    api_key_encrypted MEDIUMTEXT COMMENT 'Sealed.',
    api_secret_encrypted MEDIUMTEXT COMMENT 'Sealed.',
    connection_timeout_seconds BIGINT NOT NULL DEFAULT 30 COMMENT 'Seconds.',
    retry_attempts BIGINT NOT NULL DEFAULT 3 COMMENT 'How often.',
    is_active BOOLEAN NOT NULL DEFAULT 0 COMMENT 'May be used.' CHECK (is_active IN (0, 1)),
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `name` (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Kept for old rows; nothing uses it.';

-- A folder of machines and a folder for volumes.
CREATE TABLE IF NOT EXISTS local_sites (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    name VARCHAR(255) NOT NULL COMMENT 'Unique name.',
    machines_path VARCHAR(500) NOT NULL COMMENT 'Folder of machines: a TOML file and disk images each.',
    volumes_path VARCHAR(500) NOT NULL COMMENT 'Folder that takes the volumes.',
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `name` (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='A folder of machines and a folder for volumes.';

-- Who may log in.
CREATE TABLE IF NOT EXISTS users (
    id VARCHAR(64) NOT NULL COMMENT '`usr-` and a UUID v7.',
    name VARCHAR(255) NOT NULL COMMENT 'Unique name.',
    role VARCHAR(32) NOT NULL COMMENT 'What it may do.' CHECK (role IN ('admin', 'operator', 'viewer', 'vma')),
    password_hash MEDIUMTEXT COMMENT 'Salted hash; none for one that signs in by token only.',
    is_active BOOLEAN NOT NULL DEFAULT 1 COMMENT 'May log in.' CHECK (is_active IN (0, 1)),
    last_login BIGINT COMMENT 'Last good one.',
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `name` (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Who may log in.';

-- Tokens for programs.
CREATE TABLE IF NOT EXISTS api_tokens (
    id VARCHAR(64) NOT NULL COMMENT '`tok-` and a UUID v7.',
    user_id VARCHAR(64) NOT NULL COMMENT 'Whose.',
    name VARCHAR(255) NOT NULL COMMENT 'For people.',
    digest VARCHAR(64) NOT NULL COMMENT 'BLAKE3 of the token, in hex; the token itself is shown once.',
    expires_at BIGINT COMMENT 'Not valid after.',
    last_used BIGINT COMMENT 'When.',
    revoked_at BIGINT COMMENT 'Revoked.',
    created_at BIGINT NOT NULL COMMENT 'Made.',
    PRIMARY KEY (id),
    UNIQUE KEY `digest` (digest),
    KEY `ix user_id` (user_id),
    CONSTRAINT fk_api_tokens__user_id FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Tokens for programs.';

-- Who did what; stays when its subject goes.
CREATE TABLE IF NOT EXISTS audit_log (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    created_at BIGINT NOT NULL COMMENT 'When.',
    actor VARCHAR(255) NOT NULL COMMENT 'Who: a user''s name, `cli`, a VMA''s fingerprint.',
    action VARCHAR(64) NOT NULL COMMENT 'Stable code.',
    subject_kind VARCHAR(64) NOT NULL COMMENT 'Kind of thing.',
    subject_id VARCHAR(191) NOT NULL COMMENT 'Its id.',
    success BOOLEAN NOT NULL COMMENT 'Allowed and done.' CHECK (success IN (0, 1)),
    source_ip VARCHAR(64) COMMENT 'From where.',
    details JSON COMMENT 'More.',
    PRIMARY KEY (id),
    KEY `ix created_at,id` (created_at, id),
    KEY `ix subject_kind,subject_id,id` (subject_kind, subject_id, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Who did what; stays when its subject goes.';
