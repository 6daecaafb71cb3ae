-- Schedules, groups, executions.

-- When replications start.
CREATE TABLE IF NOT EXISTS replication_schedules (
    id VARCHAR(64) NOT NULL COMMENT '`sch-` and a UUID v7.',
    name VARCHAR(255) NOT NULL COMMENT 'Unique name.',
    description MEDIUMTEXT COMMENT 'For people.',
    cron_expression VARCHAR(255) COMMENT 'For type cron.',
    schedule_type VARCHAR(32) NOT NULL DEFAULT 'cron' COMMENT 'By time, or after another schedule.' CHECK (schedule_type IN ('cron', 'chain')),
    timezone VARCHAR(64) NOT NULL DEFAULT 'UTC' COMMENT 'IANA name.',
    chain_parent_schedule_id VARCHAR(64) COMMENT 'For type chain: after this one.',
    chain_delay_minutes BIGINT NOT NULL DEFAULT 0 COMMENT 'Minutes after it.',
    replication_type VARCHAR(32) NOT NULL DEFAULT 'auto' COMMENT 'What kind of pass.' CHECK (replication_type IN ('full', 'incremental', 'auto')),
    max_concurrent_jobs BIGINT NOT NULL DEFAULT 1 COMMENT 'At once.',
    retry_attempts BIGINT NOT NULL DEFAULT 3 COMMENT 'After a failure.',
    retry_delay_minutes BIGINT NOT NULL DEFAULT 30 COMMENT 'Minutes between.',
    enabled BOOLEAN NOT NULL DEFAULT 1 COMMENT 'In force.' CHECK (enabled IN (0, 1)),
    skip_if_running BOOLEAN NOT NULL DEFAULT 1 COMMENT 'Not while the last execution runs.' CHECK (skip_if_running IN (0, 1)),
    next_execution_at BIGINT COMMENT 'Computed by the scheduler from the expression and the time zone; never invented.',
    created_by VARCHAR(255) COMMENT 'Who made it.',
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `name` (name),
    KEY `ix chain_parent_schedule_id` (chain_parent_schedule_id),
    CONSTRAINT fk_replication_schedules__chain_parent_schedule_id FOREIGN KEY (chain_parent_schedule_id) REFERENCES replication_schedules (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='When replications start.';

-- One execution of a schedule.
CREATE TABLE IF NOT EXISTS schedule_executions (
    id VARCHAR(64) NOT NULL COMMENT '`exe-` and a UUID v7.',
    schedule_id VARCHAR(64) NOT NULL COMMENT 'The schedule.',
    group_id VARCHAR(64) COMMENT 'The group.',
    scheduled_at BIGINT NOT NULL COMMENT 'The moment it stands for: one execution each.',
    started_at BIGINT COMMENT 'Began.',
    completed_at BIGINT COMMENT 'Ended.',
    status VARCHAR(32) NOT NULL DEFAULT 'scheduled' COMMENT 'State of the execution.' CHECK (status IN ('scheduled', 'running', 'completed', 'failed', 'skipped', 'cancelled')),
    vms_eligible BIGINT NOT NULL DEFAULT 0 COMMENT 'VMs it could start.',
    jobs_created BIGINT NOT NULL DEFAULT 0 COMMENT 'Jobs it made.',
    jobs_completed BIGINT NOT NULL DEFAULT 0 COMMENT 'Of these, ended well.',
    jobs_failed BIGINT NOT NULL DEFAULT 0 COMMENT 'Of these, failed.',
    jobs_skipped BIGINT NOT NULL DEFAULT 0 COMMENT 'VMs passed over.',
    execution_details JSON COMMENT 'More.',
    error_details JSON COMMENT 'More.',
    triggered_by VARCHAR(255) NOT NULL DEFAULT 'scheduler' COMMENT 'scheduler, or who.',
    created_at BIGINT NOT NULL COMMENT 'Made.',
    PRIMARY KEY (id),
    UNIQUE KEY `schedule_id,scheduled_at` (schedule_id, scheduled_at),
    KEY `ix status,scheduled_at` (status, scheduled_at),
    KEY `ix group_id` (group_id),
    CONSTRAINT fk_schedule_executions__schedule_id FOREIGN KEY (schedule_id) REFERENCES replication_schedules (id) ON DELETE CASCADE,
    CONSTRAINT fk_schedule_executions__group_id FOREIGN KEY (group_id) REFERENCES vm_machine_groups (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='One execution of a schedule.';

-- VMs that are scheduled together.
CREATE TABLE IF NOT EXISTS vm_machine_groups (
    id VARCHAR(64) NOT NULL COMMENT '`grp-` and a UUID v7.',
    name VARCHAR(255) NOT NULL COMMENT 'Unique name.',
    description MEDIUMTEXT COMMENT 'For people.',
    schedule_id VARCHAR(64) COMMENT 'Its schedule.',
    max_concurrent_vms BIGINT NOT NULL DEFAULT 5 COMMENT 'At once.',
    priority BIGINT NOT NULL DEFAULT 0 COMMENT 'Lower first.',
    created_by VARCHAR(255) COMMENT 'Who made it.',
    created_at BIGINT NOT NULL COMMENT 'Made.',
    updated_at BIGINT NOT NULL COMMENT 'Last change of this row.',
    PRIMARY KEY (id),
    UNIQUE KEY `name` (name),
    KEY `ix schedule_id` (schedule_id),
    CONSTRAINT fk_vm_machine_groups__schedule_id FOREIGN KEY (schedule_id) REFERENCES replication_schedules (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='VMs that are scheduled together.';

-- Which VM is in which group.
CREATE TABLE IF NOT EXISTS vm_group_memberships (
    id VARCHAR(64) NOT NULL COMMENT '`mem-` and a UUID v7.',
    group_id VARCHAR(64) NOT NULL COMMENT 'The group.',
    vm_context_id VARCHAR(64) NOT NULL COMMENT 'The VM.',
    enabled BOOLEAN NOT NULL DEFAULT 1 COMMENT 'Takes part.' CHECK (enabled IN (0, 1)),
    priority BIGINT NOT NULL DEFAULT 0 COMMENT 'Lower first.',
    schedule_override_id VARCHAR(64) COMMENT 'A schedule of its own.',
    added_at BIGINT NOT NULL COMMENT 'Added.',
    PRIMARY KEY (id),
    UNIQUE KEY `group_id,vm_context_id` (group_id, vm_context_id),
    KEY `ix vm_context_id` (vm_context_id),
    KEY `ix schedule_override_id` (schedule_override_id),
    CONSTRAINT fk_vm_group_memberships__group_id FOREIGN KEY (group_id) REFERENCES vm_machine_groups (id) ON DELETE CASCADE,
    CONSTRAINT fk_vm_group_memberships__vm_context_id FOREIGN KEY (vm_context_id) REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
    CONSTRAINT fk_vm_group_memberships__schedule_override_id FOREIGN KEY (schedule_override_id) REFERENCES replication_schedules (id) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='Which VM is in which group.';
