-- Back from: schedules, groups, executions.

DROP TABLE IF EXISTS vm_group_memberships;
DROP TABLE IF EXISTS vm_machine_groups;
DROP TABLE IF EXISTS schedule_executions;
DROP TABLE IF EXISTS replication_schedules;
