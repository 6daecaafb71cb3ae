-- Back from: the store's own.

DROP TABLE IF EXISTS store_facts;
DROP TABLE IF EXISTS transaction_marks;
