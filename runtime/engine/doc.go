// Package engine runs containers: it embeds containerd in this process and is
// the only package that imports it.
//
// # What runs where
//
//	daemon process   this package: containerd's stores and services, no API socket
//	                 unless Config.DebugSocket asks for one
//	shim process     the same binary, one per site and failure domain; parent of
//	                 the containers, writer of their logs and of the exit journal
//	OCI runtime      a static runc (or another), run for create, start and delete
//
// # What survives what
//
//	end of the daemon   containers, their logs and the record of their exits: the
//	                    next Open finds the same processes
//	end of a shim       nothing of its group: its containers are killed; other
//	                    groups do not notice
//	reboot              images and container records, no process: every container is
//	                    then container.Missing
//	loss of Root        nothing but a cache: images are loaded or pulled again and
//	                    containers made again from their specs. No user data lies in it
//
// # Folders
//
//	Root   images, snapshots, metadata, the shim binary under bin/
//	State  bundles, sockets, FIFOs, hosts files, the exit journal under exits/;
//	       searchable by everyone (0711), as a process in a user namespace must
//	       reach its root through it
//
// Every container carries a run label: a new value for each Start, so that
// what an earlier run left (a snapshot, a journal entry written late) is never
// taken for that of the present one.
package engine
