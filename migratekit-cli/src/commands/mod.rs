//! One file for each verb.

pub(crate) mod copy;
pub(crate) mod credential;
pub(crate) mod db;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod exports;
pub(crate) mod generate;
pub(crate) mod job;
pub(crate) mod key;
pub(crate) mod nbd_info;
pub(crate) mod nbd_serve;
pub(crate) mod replicate;
pub(crate) mod tunnel_connect;
pub(crate) mod tunnel_permits;
pub(crate) mod tunnel_serve;
pub(crate) mod tunnel_sshd_config;
pub(crate) mod vm;
pub(crate) mod vma;
pub(crate) mod vma_enroll;
pub(crate) mod vma_rotate;
