//! What MigrateKit serves by HTTP. It parses, makes one call into `migratekit-core`, and answers; no decision is made here.
