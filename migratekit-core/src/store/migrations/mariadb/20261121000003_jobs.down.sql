-- Back from: jobs, steps, logs, intents, events, runners.

DROP TABLE IF EXISTS counters;
DROP TABLE IF EXISTS runners;
DROP TABLE IF EXISTS events;
DROP TABLE IF EXISTS job_intents;
DROP TABLE IF EXISTS log_events;
DROP TABLE IF EXISTS job_execution_log;
DROP TABLE IF EXISTS job_steps;
DROP TABLE IF EXISTS job_tracking;
