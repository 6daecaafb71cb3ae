-- Jobs, steps, logs, intents, events, runners.

-- One job: any operation that takes time. An operation has one id in all tables.
CREATE TABLE IF NOT EXISTS job_tracking (
    id VARCHAR(64) NOT NULL COMMENT '`job-` and a UUID v7.',
    parent_job_id VARCHAR(64) COMMENT 'The job it is a part of.',
    operation VARCHAR(32) NOT NULL COMMENT 'What it does: the saga that runs it.' CHECK (operation IN ('replication', 'live_failover', 'test_failover', 'test_cleanup', 'rollback', 'commit', 'failed_cleanup', 'discovery', 'verify', 'schedule_run', 'bulk', 'removal')),
    status VARCHAR(32) NOT NULL DEFAULT 'pending' COMMENT 'State of the job.' CHECK (status IN ('pending', 'running', 'paused', 'cancelling', 'rolling_back', 'completed', 'failed', 'cancelled', 'rolled_back', 'needs_attention')),
    external_job_id VARCHAR(191) COMMENT 'A job of the cloud or of a VMA that stands behind it.',
    metadata JSON NOT NULL COMMENT 'What was asked for: the saga''s input.',
    outcome JSON COMMENT 'What came of it.',
    error_message MEDIUMTEXT COMMENT 'Why it failed.',
    error_kind VARCHAR(32) COMMENT 'The error''s stable code.',
    failed_step VARCHAR(64) COMMENT 'The step that failed.',
    next_action VARCHAR(64) COMMENT 'What must be done next, when it needs attention: the code of an action.',
    percent_complete BIGINT NOT NULL DEFAULT 0 COMMENT '0 to 100; never falls.' CHECK (percent_complete BETWEEN 0 AND 100),
    unreachable_since BIGINT COMMENT 'The other side cannot be reached since then.',
    pause_requested BOOLEAN NOT NULL DEFAULT 0 COMMENT 'Somebody asked it to pause.' CHECK (pause_requested IN (0, 1)),
    cancel_requested BOOLEAN NOT NULL DEFAULT 0 COMMENT 'Somebody asked it to end.' CHECK (cancel_requested IN (0, 1)),
    undo_requested BOOLEAN NOT NULL DEFAULT 0 COMMENT 'A person had it undone after it needed attention.' CHECK (undo_requested IN (0, 1)),
    pivot_crossed BOOLEAN NOT NULL DEFAULT 0 COMMENT 'Its pivot is committed: it only goes forward.' CHECK (pivot_crossed IN (0, 1)),
    created_at BIGINT NOT NULL COMMENT 'Asked for.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    started_at BIGINT COMMENT 'First step began.',
    completed_at BIGINT COMMENT 'Ended.',
    owner VARCHAR(255) COMMENT 'Who asked.',
    context_id VARCHAR(64) COMMENT 'The VM; emptied when the context is deleted, the job''s row stays.',
    context_name VARCHAR(255) COMMENT 'Copy of the VM''s name, for history.',
    job_category VARCHAR(32) NOT NULL COMMENT 'For filters.' CHECK (job_category IN ('system', 'failover', 'replication', 'scheduler', 'discovery', 'bulk')),
    attempt BIGINT NOT NULL DEFAULT 0 COMMENT 'How often a runner took it.',
    lease_owner VARCHAR(64) COMMENT 'The runner that holds it.',
    lease_until BIGINT COMMENT 'By the database''s clock.',
    lease_renewals BIGINT NOT NULL DEFAULT 0 COMMENT 'Counts the renewals: an observer sees by it that the owner lives.',
    epoch BIGINT NOT NULL DEFAULT 0 COMMENT 'The epoch its runner got.',
    active_context_id VARCHAR(64) GENERATED ALWAYS AS (CASE WHEN status IN ('pending', 'running', 'paused', 'cancelling', 'rolling_back') AND parent_job_id IS NULL THEN context_id END) STORED COMMENT 'The context while the job is active and has no parent: unique, so one job at a time.',
    PRIMARY KEY (id),
    UNIQUE KEY `active_context_id` (active_context_id),
    KEY `ix context_id,created_at,id` (context_id, created_at, id),
    KEY `ix status,lease_until` (status, lease_until),
    KEY `ix status,created_at,id` (status, created_at, id),
    KEY `ix parent_job_id` (parent_job_id),
    KEY `ix created_at,id` (created_at, id),
    KEY `ix job_category,created_at,id` (job_category, created_at, id),
    KEY `ix lease_owner` (lease_owner),
    CONSTRAINT fk_job_tracking__parent_job_id FOREIGN KEY (parent_job_id) REFERENCES job_tracking (id) ON DELETE CASCADE,
    CONSTRAINT fk_job_tracking__context_id FOREIGN KEY (context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE RESTRICT,
    CONSTRAINT fk_job_tracking__lease_owner FOREIGN KEY (lease_owner) REFERENCES runners (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='One job: any operation that takes time. An operation has one id in all tables.';

-- One step of a job.
CREATE TABLE IF NOT EXISTS job_steps (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    job_id VARCHAR(64) NOT NULL COMMENT 'The job.',
    name VARCHAR(64) NOT NULL COMMENT 'The step''s name in the saga.',
    seq BIGINT NOT NULL COMMENT 'Place in the job, from 0.',
    status VARCHAR(32) NOT NULL DEFAULT 'pending' COMMENT 'State of the step.' CHECK (status IN ('pending', 'running', 'completed', 'failed', 'skipped', 'undoing', 'undone', 'undo_failed')),
    attempt BIGINT NOT NULL DEFAULT 0 COMMENT 'How often it was begun.',
    started_at BIGINT COMMENT 'Begun.',
    completed_at BIGINT COMMENT 'Ended.',
    error_message MEDIUMTEXT COMMENT 'Why it failed.',
    metadata JSON COMMENT 'What it left for the steps after it and for its undo.',
    PRIMARY KEY (id),
    UNIQUE KEY `job_id,seq` (job_id, seq),
    UNIQUE KEY `job_id,name` (job_id, name),
    CONSTRAINT fk_job_steps__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='One step of a job.';

-- What a job tells its reader.
CREATE TABLE IF NOT EXISTS job_execution_log (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    job_id VARCHAR(64) NOT NULL COMMENT 'The job.',
    log_level VARCHAR(32) NOT NULL COMMENT 'Level.' CHECK (log_level IN ('DEBUG', 'INFO', 'WARN', 'ERROR')),
    message MEDIUMTEXT NOT NULL COMMENT 'The line.',
    details JSON COMMENT 'Fields.',
    operation_phase VARCHAR(64) COMMENT 'The step.',
    created_at BIGINT NOT NULL COMMENT 'When.',
    PRIMARY KEY (id),
    KEY `ix job_id,id` (job_id, id),
    KEY `ix job_id,log_level` (job_id, log_level),
    KEY `ix created_at,id` (created_at, id),
    CONSTRAINT fk_job_execution_log__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='What a job tells its reader.';

-- The program's log, as rows.
CREATE TABLE IF NOT EXISTS log_events (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    job_id VARCHAR(64) COMMENT 'The job it was written for.',
    step_id BIGINT COMMENT 'The step.',
    level VARCHAR(32) NOT NULL COMMENT 'Level.' CHECK (level IN ('DEBUG', 'INFO', 'WARN', 'ERROR')),
    message MEDIUMTEXT NOT NULL COMMENT 'The line.',
    attrs JSON COMMENT 'Fields.',
    ts BIGINT NOT NULL COMMENT 'When.',
    external_job_id VARCHAR(191) COMMENT 'A foreign job''s id.',
    PRIMARY KEY (id),
    KEY `ix job_id,id` (job_id, id),
    KEY `ix ts,id` (ts, id),
    KEY `ix step_id` (step_id),
    CONSTRAINT fk_log_events__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE SET NULL,
    CONSTRAINT fk_log_events__step_id FOREIGN KEY (step_id) REFERENCES job_steps (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='The program''s log, as rows.';

-- Everything a job makes outside: written before it is made, completed after.
CREATE TABLE IF NOT EXISTS job_intents (
    id BIGINT NOT NULL AUTO_INCREMENT COMMENT 'Row id.',
    job_id VARCHAR(64) NOT NULL COMMENT 'The job; one with open intents cannot be deleted.',
    step_name VARCHAR(64) NOT NULL COMMENT 'The step.',
    kind VARCHAR(64) NOT NULL COMMENT 'snapshot, volume, export, spool, process ..',
    name VARCHAR(255) NOT NULL COMMENT 'The name it gets, by which it is found again.',
    status VARCHAR(32) NOT NULL DEFAULT 'intended' COMMENT 'intended: only the world knows; effected: it exists; undone: gone or never made; left_over: could not be removed.' CHECK (status IN ('intended', 'effected', 'undone', 'left_over')),
    effect_id VARCHAR(255) COMMENT 'The outside world''s id of it.',
    epoch BIGINT NOT NULL DEFAULT 0 COMMENT 'The epoch in which it was written.',
    created_at BIGINT NOT NULL COMMENT 'Written down.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `job_id,kind,name` (job_id, kind, name),
    KEY `ix status,job_id` (status, job_id),
    CONSTRAINT fk_job_intents__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE RESTRICT
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Everything a job makes outside: written before it is made, completed after.';

-- What happened, in order; written in the transaction of the change itself.
CREATE TABLE IF NOT EXISTS events (
    id BIGINT NOT NULL COMMENT 'Rising in the order of the commits: from `counters`.',
    at BIGINT NOT NULL COMMENT 'When.',
    kind VARCHAR(32) NOT NULL COMMENT 'Stable code: job_status, job_progress ..',
    job_id VARCHAR(64) COMMENT 'The job.',
    context_id VARCHAR(64) COMMENT 'The VM.',
    payload JSON NOT NULL COMMENT 'Codes and numbers; no technical text.',
    PRIMARY KEY (id),
    KEY `ix job_id,id` (job_id, id),
    KEY `ix context_id,id` (context_id, id),
    KEY `ix at,id` (at, id),
    CONSTRAINT fk_events__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE SET NULL,
    CONSTRAINT fk_events__context_id FOREIGN KEY (context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='What happened, in order; written in the transaction of the change itself.';

-- One process that runs jobs.
CREATE TABLE IF NOT EXISTS runners (
    id VARCHAR(64) NOT NULL COMMENT '`run-` and a UUID v7.',
    host VARCHAR(255) NOT NULL COMMENT 'Host name.',
    pid BIGINT NOT NULL COMMENT 'Process id there.',
    version VARCHAR(64) NOT NULL COMMENT 'Program version.',
    started_at BIGINT NOT NULL COMMENT 'Began.',
    seen_at BIGINT NOT NULL COMMENT 'Last sign of life, by the database''s clock.',
    heartbeats BIGINT NOT NULL DEFAULT 0 COMMENT 'Counts the signs of life.',
    stopped_at BIGINT COMMENT 'Ended in order.',
    PRIMARY KEY (id),
    KEY `ix stopped_at,seen_at` (stopped_at, seen_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='One process that runs jobs.';

-- Numbers that rise in the order of the commits: the row is locked until the transaction ends.
CREATE TABLE IF NOT EXISTS counters (
    name VARCHAR(64) NOT NULL COMMENT 'What is counted.',
    value BIGINT NOT NULL COMMENT 'The last number given.',
    PRIMARY KEY (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Numbers that rise in the order of the commits: the row is locked until the transaction ends.';

INSERT IGNORE INTO counters (name, value) VALUES ('events', 0);
