//! The parts of the command line that stand alone, so that tests can call them: the check of this host, and the disk of the demo.

pub mod demo;
pub mod doctor;
pub mod tool;
