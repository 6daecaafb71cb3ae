-- Back from: credentials, agents, clouds, sites, users, audit.

DROP TABLE IF EXISTS audit_log;
DROP TABLE IF EXISTS api_tokens;
DROP TABLE IF EXISTS users;
DROP TABLE IF EXISTS local_sites;
DROP TABLE IF EXISTS linstor_configs;
DROP TABLE IF EXISTS ossea_configs;
DROP TABLE IF EXISTS vma_connection_audit;
DROP TABLE IF EXISTS vma_active_connections;
DROP TABLE IF EXISTS vma_pairing_codes;
DROP TABLE IF EXISTS vma_enrollments;
DROP TABLE IF EXISTS cbt_history;
DROP TABLE IF EXISTS vmware_credentials;
