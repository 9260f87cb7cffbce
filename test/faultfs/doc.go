// Package faultfs is a disk for tests that fails on demand: a file system in
// memory, mounted through FUSE (Linux), that numbers what a process does to it.
//
// # Two states
//
// A Disk knows what processes see, and what would be left after a power cut. A
// write is left once its file was flushed (fsync, fdatasync), a name once its
// directory was (create, link, rename, unlink, mkdir). Before that a cut may leave
// any of it or nothing: Cut decides by a Luck, writes in pieces of a sector, in
// any order, directory changes each as a whole. This is what POSIX promises and no
// more; journals of real file systems keep more.
//
// # Faults
//
// Arm lets one operation fail: the n-th of those that the fault can meet. Refuse
// lets kinds of operations fail until further notice. A flush that fails treats
// what was to be flushed as Linux does: the kernel's page cache goes on showing it
// and takes it for clean, so that no later flush writes it, and whoever reads past
// the page cache finds what the disk got.
//
// # Rules for users
//
// The process that serves the mount must never touch files on it: a page fault, or
// a fork while a file is open, would wait for the very process that is to answer.
// It looks at a Disk through Save, which copies it to an ordinary folder.
package faultfs
