-- The store's own.

-- One row for each transaction on MariaDB: a commit whose answer was lost is found by it.
CREATE TABLE IF NOT EXISTS transaction_marks (
    mark VARCHAR(64) NOT NULL COMMENT 'UUID.',
    made_at BIGINT NOT NULL COMMENT 'When; old rows are swept.',
    PRIMARY KEY (mark),
    KEY `ix made_at` (made_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='One row for each transaction on MariaDB: a commit whose answer was lost is found by it.';

-- What the store knows of itself.
CREATE TABLE IF NOT EXISTS store_facts (
    name VARCHAR(64) NOT NULL COMMENT 'The fact.',
    value MEDIUMTEXT NOT NULL COMMENT 'Its value.',
    updated_at BIGINT NOT NULL COMMENT 'Last change.',
    PRIMARY KEY (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='What the store knows of itself.';
