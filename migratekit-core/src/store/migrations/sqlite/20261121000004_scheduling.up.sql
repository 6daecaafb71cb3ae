-- Schedules, groups, executions.

-- When replications start.
CREATE TABLE IF NOT EXISTS replication_schedules (
    -- `sch-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- Unique name.
    name TEXT NOT NULL CHECK (length(name) <= 255),
    -- For people.
    description TEXT CHECK (length(description) <= 4194303),
    -- For type cron.
    cron_expression TEXT CHECK (length(cron_expression) <= 255),
    -- By time, or after another schedule.
    schedule_type TEXT NOT NULL DEFAULT 'cron' CHECK (schedule_type IN ('cron', 'chain')),
    -- IANA name.
    timezone TEXT NOT NULL DEFAULT 'UTC' CHECK (length(timezone) <= 64),
    -- For type chain: after this one.
    chain_parent_schedule_id TEXT CHECK (length(chain_parent_schedule_id) <= 64),
    -- Minutes after it.
    chain_delay_minutes INTEGER NOT NULL DEFAULT 0,
    -- What kind of pass.
    replication_type TEXT NOT NULL DEFAULT 'auto' CHECK (replication_type IN ('full', 'incremental', 'auto')),
    -- At once.
    max_concurrent_jobs INTEGER NOT NULL DEFAULT 1,
    -- After a failure.
    retry_attempts INTEGER NOT NULL DEFAULT 3,
    -- Minutes between.
    retry_delay_minutes INTEGER NOT NULL DEFAULT 30,
    -- In force.
    enabled INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    -- Not while the last execution runs.
    skip_if_running INTEGER NOT NULL DEFAULT 1 CHECK (skip_if_running IN (0, 1)),
    -- Computed by the scheduler from the expression and the time zone; never invented.
    next_execution_at INTEGER,
    -- Who made it.
    created_by TEXT CHECK (length(created_by) <= 255),
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (name),
    CONSTRAINT fk_replication_schedules__chain_parent_schedule_id FOREIGN KEY (chain_parent_schedule_id) REFERENCES replication_schedules (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_replication_schedules__chain_parent_schedule_id ON replication_schedules (chain_parent_schedule_id);

-- One execution of a schedule.
CREATE TABLE IF NOT EXISTS schedule_executions (
    -- `exe-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- The schedule.
    schedule_id TEXT NOT NULL CHECK (length(schedule_id) <= 64),
    -- The group.
    group_id TEXT CHECK (length(group_id) <= 64),
    -- The moment it stands for: one execution each.
    scheduled_at INTEGER NOT NULL,
    -- Began.
    started_at INTEGER,
    -- Ended.
    completed_at INTEGER,
    -- State of the execution.
    status TEXT NOT NULL DEFAULT 'scheduled' CHECK (status IN ('scheduled', 'running', 'completed', 'failed', 'skipped', 'cancelled')),
    -- VMs it could start.
    vms_eligible INTEGER NOT NULL DEFAULT 0,
    -- Jobs it made.
    jobs_created INTEGER NOT NULL DEFAULT 0,
    -- Of these, ended well.
    jobs_completed INTEGER NOT NULL DEFAULT 0,
    -- Of these, failed.
    jobs_failed INTEGER NOT NULL DEFAULT 0,
    -- VMs passed over.
    jobs_skipped INTEGER NOT NULL DEFAULT 0,
    -- More.
    execution_details TEXT CHECK (json_valid(execution_details)),
    -- More.
    error_details TEXT CHECK (json_valid(error_details)),
    -- scheduler, or who.
    triggered_by TEXT NOT NULL DEFAULT 'scheduler' CHECK (length(triggered_by) <= 255),
    -- Made.
    created_at INTEGER NOT NULL,
    UNIQUE (schedule_id, scheduled_at),
    CONSTRAINT fk_schedule_executions__schedule_id FOREIGN KEY (schedule_id) REFERENCES replication_schedules (id) ON DELETE CASCADE,
    CONSTRAINT fk_schedule_executions__group_id FOREIGN KEY (group_id) REFERENCES vm_machine_groups (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_schedule_executions__status__scheduled_at ON schedule_executions (status, scheduled_at);

CREATE INDEX IF NOT EXISTS ix_schedule_executions__group_id ON schedule_executions (group_id);

-- VMs that are scheduled together.
CREATE TABLE IF NOT EXISTS vm_machine_groups (
    -- `grp-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- Unique name.
    name TEXT NOT NULL CHECK (length(name) <= 255),
    -- For people.
    description TEXT CHECK (length(description) <= 4194303),
    -- Its schedule.
    schedule_id TEXT CHECK (length(schedule_id) <= 64),
    -- At once.
    max_concurrent_vms INTEGER NOT NULL DEFAULT 5,
    -- Lower first.
    priority INTEGER NOT NULL DEFAULT 0,
    -- Who made it.
    created_by TEXT CHECK (length(created_by) <= 255),
    -- Made.
    created_at INTEGER NOT NULL,
    -- Last change of this row.
    updated_at INTEGER NOT NULL,
    UNIQUE (name),
    CONSTRAINT fk_vm_machine_groups__schedule_id FOREIGN KEY (schedule_id) REFERENCES replication_schedules (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_vm_machine_groups__schedule_id ON vm_machine_groups (schedule_id);

-- Which VM is in which group.
CREATE TABLE IF NOT EXISTS vm_group_memberships (
    -- `mem-` and a UUID v7.
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) <= 64),
    -- The group.
    group_id TEXT NOT NULL CHECK (length(group_id) <= 64),
    -- The VM.
    vm_context_id TEXT NOT NULL CHECK (length(vm_context_id) <= 64),
    -- Takes part.
    enabled INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    -- Lower first.
    priority INTEGER NOT NULL DEFAULT 0,
    -- A schedule of its own.
    schedule_override_id TEXT CHECK (length(schedule_override_id) <= 64),
    -- Added.
    added_at INTEGER NOT NULL,
    UNIQUE (group_id, vm_context_id),
    CONSTRAINT fk_vm_group_memberships__group_id FOREIGN KEY (group_id) REFERENCES vm_machine_groups (id) ON DELETE CASCADE,
    CONSTRAINT fk_vm_group_memberships__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
    CONSTRAINT fk_vm_group_memberships__schedule_override_id FOREIGN KEY (schedule_override_id) REFERENCES replication_schedules (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_vm_group_memberships__vm_context_id ON vm_group_memberships (vm_context_id);

CREATE INDEX IF NOT EXISTS ix_vm_group_memberships__schedule_override_id ON vm_group_memberships (schedule_override_id);
