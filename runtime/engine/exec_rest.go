package engine

import "golang.org/x/sys/unix"

// sessionRounds bound how often the processes of a session are looked for: they
// may have children between a look and their end.
const sessionRounds = 10

// endSession kills what a command has started in a container and that is still
// in the command's session, which the OCI runtime begins for each command. What
// has begun a session of its own means to stay. The list of the container's
// cgroup keeps a number that the host has given away anew out of it.
func endSession(cgroup memoryEvents, leader int) {
	for range sessionRounds {
		found := false
		for _, pid := range cgroup.processes() {
			if session, err := unix.Getsid(int(pid)); err != nil || session != leader {
				continue
			}
			found = unix.Kill(int(pid), unix.SIGKILL) == nil || found
		}
		if !found {
			return
		}
	}
}
