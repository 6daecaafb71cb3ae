-- Back from: the five views.

DROP VIEW IF EXISTS vm_schedule_status;
DROP VIEW IF EXISTS schedule_execution_summary;
DROP VIEW IF EXISTS active_schedules;
DROP VIEW IF EXISTS active_jobs;
DROP VIEW IF EXISTS job_tracking_hierarchy;
