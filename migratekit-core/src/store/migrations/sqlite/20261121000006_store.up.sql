-- The store's own.

-- One row for each transaction on MariaDB: a commit whose answer was lost is found by it.
CREATE TABLE IF NOT EXISTS transaction_marks (
    -- UUID.
    mark TEXT NOT NULL PRIMARY KEY CHECK (length(mark) <= 64),
    -- When; old rows are swept.
    made_at INTEGER NOT NULL
) STRICT;

CREATE INDEX IF NOT EXISTS ix_transaction_marks__made_at ON transaction_marks (made_at);

-- What the store knows of itself.
CREATE TABLE IF NOT EXISTS store_facts (
    -- The fact.
    name TEXT NOT NULL PRIMARY KEY CHECK (length(name) <= 64),
    -- Its value.
    value TEXT NOT NULL CHECK (length(value) <= 4194303),
    -- Last change.
    updated_at INTEGER NOT NULL
) STRICT;
