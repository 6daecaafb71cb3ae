-- The five views.

-- Each job with its parent, its number of children and its duration in seconds.
CREATE VIEW IF NOT EXISTS job_tracking_hierarchy AS
SELECT j.id, j.parent_job_id, j.operation, j.status, j.job_category, j.context_id, j.percent_complete,
       CASE WHEN j.parent_job_id IS NULL THEN 'root' ELSE 'child' END AS hierarchy_level,
       (SELECT COUNT(*) FROM job_tracking c WHERE c.parent_job_id = j.id) AS child_count,
       CAST((COALESCE(j.completed_at, CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)) - j.started_at) / 1000000 AS INTEGER) AS duration_seconds,
       j.created_at, j.started_at, j.completed_at
FROM job_tracking j;

-- Jobs that have not ended, how long they run, and how many errors they logged.
CREATE VIEW IF NOT EXISTS active_jobs AS
SELECT j.id, j.parent_job_id, j.operation, j.status, j.job_category, j.context_id, j.context_name, j.owner,
       j.percent_complete, j.lease_owner, j.created_at, j.started_at,
       CAST((CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER) - j.started_at) / 1000000 AS INTEGER) AS seconds_running,
       (SELECT COUNT(*) FROM job_execution_log l WHERE l.job_id = j.id AND l.log_level = 'ERROR') AS error_count
FROM job_tracking j
WHERE j.status IN ('pending', 'running', 'paused', 'cancelling', 'rolling_back');

-- Schedules in force with counts of groups and VMs.
CREATE VIEW IF NOT EXISTS active_schedules AS
SELECT s.id, s.name, s.schedule_type, s.cron_expression, s.timezone, s.replication_type, s.enabled,
       (SELECT COUNT(*) FROM vm_machine_groups g WHERE g.schedule_id = s.id) AS group_count,
       (SELECT COUNT(DISTINCT m.vm_context_id) FROM vm_group_memberships m JOIN vm_machine_groups g ON g.id = m.group_id
         WHERE g.schedule_id = s.id AND m.enabled = 1) AS vm_count,
       (SELECT MAX(e.scheduled_at) FROM schedule_executions e WHERE e.schedule_id = s.id) AS last_execution,
       s.next_execution_at AS next_execution
FROM replication_schedules s
WHERE s.enabled = 1;

-- Executions with the schedule's name and the share of jobs that ended well.
CREATE VIEW IF NOT EXISTS schedule_execution_summary AS
SELECT e.id, e.schedule_id, s.name AS schedule_name, e.group_id, g.name AS group_name, e.status, e.scheduled_at, e.started_at,
       e.completed_at, e.vms_eligible, e.jobs_created, e.jobs_completed, e.jobs_failed, e.jobs_skipped, CAST((e.completed_at - e.started_at) / 1000000 AS INTEGER) AS execution_duration_seconds,
       CASE WHEN e.jobs_created > 0 THEN CAST(e.jobs_completed * 100.0 / e.jobs_created AS REAL) END AS success_rate_percent
FROM schedule_executions e
JOIN replication_schedules s ON s.id = e.schedule_id
LEFT JOIN vm_machine_groups g ON g.id = e.group_id;

-- Per VM its groups and schedule, and whether a job is active.
CREATE VIEW IF NOT EXISTS vm_schedule_status AS
SELECT c.context_id, c.vm_name, c.current_status, c.scheduler_enabled, m.group_id, g.name AS group_name, g.priority AS group_priority,
       m.priority AS vm_priority, m.enabled AS membership_enabled, COALESCE(m.schedule_override_id, g.schedule_id) AS schedule_id,
       s.name AS schedule_name, s.enabled AS schedule_enabled,
       (SELECT COUNT(*) FROM job_tracking j WHERE j.active_context_id = c.context_id) AS has_active_job
FROM vm_replication_contexts c
LEFT JOIN vm_group_memberships m ON m.vm_context_id = c.context_id
LEFT JOIN vm_machine_groups g ON g.id = m.group_id
LEFT JOIN replication_schedules s ON s.id = COALESCE(m.schedule_override_id, g.schedule_id);
