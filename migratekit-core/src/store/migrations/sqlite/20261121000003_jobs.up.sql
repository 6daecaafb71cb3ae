-- Jobs, steps, logs, intents, events, runners.

-- One job: any operation that takes time. An operation has one id in all tables.
CREATE TABLE IF NOT EXISTS job_tracking (
    -- `job-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- The job it is a part of.
    parent_job_id TEXT CHECK (length(parent_job_id) <= 64),
    -- What it does: the saga that runs it.
    operation TEXT NOT NULL CHECK (operation IN ('replication', 'live_failover', 'test_failover', 'test_cleanup', 'rollback', 'commit', 'failed_cleanup', 'discovery', 'verify', 'schedule_run', 'bulk', 'removal')),
    -- State of the job.
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'paused', 'cancelling', 'rolling_back', 'completed', 'failed', 'cancelled', 'rolled_back', 'needs_attention')),
    -- A job of the cloud or of a VMA that stands behind it.
    external_job_id TEXT CHECK (length(external_job_id) <= 191),
    -- What was asked for: the saga's input.
    metadata TEXT NOT NULL CHECK (json_valid(metadata)),
    -- What came of it.
    outcome TEXT CHECK (json_valid(outcome)),
    -- Why it failed.
    error_message TEXT CHECK (length(error_message) <= 4194303),
    -- The error's stable code.
    error_kind TEXT CHECK (length(error_kind) <= 32),
    -- The step that failed.
    failed_step TEXT CHECK (length(failed_step) <= 64),
    -- What must be done next, when it needs attention: the code of an action.
    next_action TEXT CHECK (length(next_action) <= 64),
    -- 0 to 100; never falls.
    percent_complete INTEGER NOT NULL DEFAULT 0 CHECK (percent_complete BETWEEN 0 AND 100),
    -- The other side cannot be reached since then.
    unreachable_since INTEGER,
    -- Somebody asked it to pause.
    pause_requested INTEGER NOT NULL DEFAULT 0 CHECK (pause_requested IN (0, 1)),
    -- Somebody asked it to end.
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    -- A person had it undone after it needed attention.
    undo_requested INTEGER NOT NULL DEFAULT 0 CHECK (undo_requested IN (0, 1)),
    -- Its pivot is committed: it only goes forward.
    pivot_crossed INTEGER NOT NULL DEFAULT 0 CHECK (pivot_crossed IN (0, 1)),
    -- Asked for.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    -- First step began.
    started_at INTEGER,
    -- Ended.
    completed_at INTEGER,
    -- Who asked.
    owner TEXT CHECK (length(owner) <= 255),
    -- The VM; emptied when the context is deleted, the job's row stays.
    context_id TEXT CHECK (length(context_id) <= 64),
    -- Copy of the VM's name, for history.
    context_name TEXT CHECK (length(context_name) <= 255),
    -- For filters.
    job_category TEXT NOT NULL CHECK (job_category IN ('system', 'failover', 'replication', 'scheduler', 'discovery', 'bulk')),
    -- How often a runner took it.
    attempt INTEGER NOT NULL DEFAULT 0,
    -- The runner that holds it.
    lease_owner TEXT CHECK (length(lease_owner) <= 64),
    -- By the database's clock.
    lease_until INTEGER,
    -- Counts the renewals: an observer sees by it that the owner lives.
    lease_renewals INTEGER NOT NULL DEFAULT 0,
    -- The epoch its runner got.
    epoch INTEGER NOT NULL DEFAULT 0,
    -- The context while the job is active and has no parent: unique, so one job at a time.
    active_context_id TEXT GENERATED ALWAYS AS (CASE WHEN status IN ('pending', 'running', 'paused', 'cancelling', 'rolling_back') AND parent_job_id IS NULL THEN context_id END) STORED,
    UNIQUE (active_context_id),
    CONSTRAINT fk_job_tracking__parent_job_id FOREIGN KEY (parent_job_id) REFERENCES job_tracking (id) ON DELETE CASCADE,
    CONSTRAINT fk_job_tracking__context_id FOREIGN KEY (context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE RESTRICT,
    CONSTRAINT fk_job_tracking__lease_owner FOREIGN KEY (lease_owner) REFERENCES runners (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_job_tracking__context_id__created_at__id ON job_tracking (context_id, created_at, id);

CREATE INDEX IF NOT EXISTS ix_job_tracking__status__lease_until ON job_tracking (status, lease_until);

CREATE INDEX IF NOT EXISTS ix_job_tracking__status__created_at__id ON job_tracking (status, created_at, id);

CREATE INDEX IF NOT EXISTS ix_job_tracking__parent_job_id ON job_tracking (parent_job_id);

CREATE INDEX IF NOT EXISTS ix_job_tracking__created_at__id ON job_tracking (created_at, id);

CREATE INDEX IF NOT EXISTS ix_job_tracking__job_category__created_at__id ON job_tracking (job_category, created_at, id);

CREATE INDEX IF NOT EXISTS ix_job_tracking__lease_owner ON job_tracking (lease_owner);

-- One step of a job.
CREATE TABLE IF NOT EXISTS job_steps (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The job.
    job_id TEXT NOT NULL CHECK (length(job_id) <= 64),
    -- The step's name in the saga.
    name TEXT NOT NULL CHECK (length(name) <= 64),
    -- Place in the job, from 0.
    seq INTEGER NOT NULL,
    -- State of the step.
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'completed', 'failed', 'skipped', 'undoing', 'undone', 'undo_failed')),
    -- How often it was begun.
    attempt INTEGER NOT NULL DEFAULT 0,
    -- Begun.
    started_at INTEGER,
    -- Ended.
    completed_at INTEGER,
    -- Why it failed.
    error_message TEXT CHECK (length(error_message) <= 4194303),
    -- What it left for the steps after it and for its undo.
    metadata TEXT CHECK (json_valid(metadata)),
    UNIQUE (job_id, seq),
    UNIQUE (job_id, name),
    CONSTRAINT fk_job_steps__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE CASCADE
) STRICT;

-- What a job tells its reader.
CREATE TABLE IF NOT EXISTS job_execution_log (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The job.
    job_id TEXT NOT NULL CHECK (length(job_id) <= 64),
    -- Level.
    log_level TEXT NOT NULL CHECK (log_level IN ('DEBUG', 'INFO', 'WARN', 'ERROR')),
    -- The line.
    message TEXT NOT NULL CHECK (length(message) <= 4194303),
    -- Fields.
    details TEXT CHECK (json_valid(details)),
    -- The step.
    operation_phase TEXT CHECK (length(operation_phase) <= 64),
    -- When.
    created_at INTEGER NOT NULL,
    CONSTRAINT fk_job_execution_log__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE CASCADE
) STRICT;

CREATE INDEX IF NOT EXISTS ix_job_execution_log__job_id__id ON job_execution_log (job_id, id);

CREATE INDEX IF NOT EXISTS ix_job_execution_log__job_id__log_level ON job_execution_log (job_id, log_level);

CREATE INDEX IF NOT EXISTS ix_job_execution_log__created_at__id ON job_execution_log (created_at, id);

-- The program's log, as rows.
CREATE TABLE IF NOT EXISTS log_events (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The job it was written for.
    job_id TEXT CHECK (length(job_id) <= 64),
    -- The step.
    step_id INTEGER,
    -- Level.
    level TEXT NOT NULL CHECK (level IN ('DEBUG', 'INFO', 'WARN', 'ERROR')),
    -- The line.
    message TEXT NOT NULL CHECK (length(message) <= 4194303),
    -- Fields.
    attrs TEXT CHECK (json_valid(attrs)),
    -- When.
    ts INTEGER NOT NULL,
    -- A foreign job's id.
    external_job_id TEXT CHECK (length(external_job_id) <= 191),
    CONSTRAINT fk_log_events__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE SET NULL,
    CONSTRAINT fk_log_events__step_id FOREIGN KEY (step_id) REFERENCES job_steps (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_log_events__job_id__id ON log_events (job_id, id);

CREATE INDEX IF NOT EXISTS ix_log_events__ts__id ON log_events (ts, id);

CREATE INDEX IF NOT EXISTS ix_log_events__step_id ON log_events (step_id);

-- Everything a job makes outside: written before it is made, completed after.
CREATE TABLE IF NOT EXISTS job_intents (
    -- Row id.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The job; one with open intents cannot be deleted.
    job_id TEXT NOT NULL CHECK (length(job_id) <= 64),
    -- The step.
    step_name TEXT NOT NULL CHECK (length(step_name) <= 64),
    -- snapshot, volume, export, spool, process ..
    kind TEXT NOT NULL CHECK (length(kind) <= 64),
    -- The name it gets, by which it is found again.
    name TEXT NOT NULL CHECK (length(name) <= 255),
    -- intended: only the world knows; effected: it exists; undone: gone or never made; left_over: could not be removed.
    status TEXT NOT NULL DEFAULT 'intended' CHECK (status IN ('intended', 'effected', 'undone', 'left_over')),
    -- The outside world's id of it.
    effect_id TEXT CHECK (length(effect_id) <= 255),
    -- The epoch in which it was written.
    epoch INTEGER NOT NULL DEFAULT 0,
    -- Written down.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (job_id, kind, name),
    CONSTRAINT fk_job_intents__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE RESTRICT
) STRICT;

CREATE INDEX IF NOT EXISTS ix_job_intents__status__job_id ON job_intents (status, job_id);

-- What happened, in order; written in the transaction of the change itself.
CREATE TABLE IF NOT EXISTS events (
    -- Rising in the order of the commits: from `counters`.
    id INTEGER PRIMARY KEY,
    -- When.
    at INTEGER NOT NULL,
    -- Stable code: job_status, job_progress ..
    kind TEXT NOT NULL CHECK (length(kind) <= 32),
    -- The job.
    job_id TEXT CHECK (length(job_id) <= 64),
    -- The VM.
    context_id TEXT CHECK (length(context_id) <= 64),
    -- Codes and numbers; no technical text.
    payload TEXT NOT NULL CHECK (json_valid(payload)),
    CONSTRAINT fk_events__job_id FOREIGN KEY (job_id) REFERENCES job_tracking (id) ON DELETE SET NULL,
    CONSTRAINT fk_events__context_id FOREIGN KEY (context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_events__job_id__id ON events (job_id, id);

CREATE INDEX IF NOT EXISTS ix_events__context_id__id ON events (context_id, id);

CREATE INDEX IF NOT EXISTS ix_events__at__id ON events (at, id);

-- One process that runs jobs.
CREATE TABLE IF NOT EXISTS runners (
    -- `run-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- Host name.
    host TEXT NOT NULL CHECK (length(host) <= 255),
    -- Process id there.
    pid INTEGER NOT NULL,
    -- Program version.
    version TEXT NOT NULL CHECK (length(version) <= 64),
    -- Began.
    started_at INTEGER NOT NULL,
    -- Last sign of life, by the database's clock.
    seen_at INTEGER NOT NULL,
    -- Counts the signs of life.
    heartbeats INTEGER NOT NULL DEFAULT 0,
    -- Ended in order.
    stopped_at INTEGER
) STRICT;

CREATE INDEX IF NOT EXISTS ix_runners__stopped_at__seen_at ON runners (stopped_at, seen_at);

-- Numbers that rise in the order of the commits: the row is locked until the transaction ends.
CREATE TABLE IF NOT EXISTS counters (
    -- What is counted.
    name TEXT NOT NULL PRIMARY KEY CHECK (length(name) <= 64),
    -- The last number given.
    value INTEGER NOT NULL
) STRICT;

INSERT OR IGNORE INTO counters (name, value) VALUES ('events', 0);
