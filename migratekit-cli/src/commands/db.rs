//! `migratekit db`: the catalog itself.

use migratekit_core::Result;
use migratekit_core::clock::Timestamp;
use migratekit_core::engine::{Diagnosis, diagnose};
use migratekit_core::store::{Migration, SchemaStatus, Store};
use serde::Serialize;

use crate::args::{DbArgs, DbCommand, Global, PlaceArgs};
use crate::table::{Table, facts, plain, when};
use crate::{output, place};
