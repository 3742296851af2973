package engine

// daemonConfig is the environment variable that makes the test binary a daemon.
const daemonConfig = "TARIMA_TEST_DAEMON"

func runTestDaemon() {}
