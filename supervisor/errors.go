package supervisor

import "errors"

// Sentinel errors, to be asked for with errors.Is.
var (
	// ErrUnknown means that no service or job of the site has that name.
	ErrUnknown = errors.New("no such service or job")
	// ErrNotApplied means that no site file has been applied yet.
	ErrNotApplied = errors.New("no site file is applied yet")
	// ErrInvalid means that a desired state contradicts itself; the text names
	// every contradiction.
	ErrInvalid = errors.New("the desired state is not valid")
	// ErrConfig means that the supervisor was made with a part missing.
	ErrConfig = errors.New("the supervisor's configuration is not complete")
	// ErrRunning means that Run was called a second time.
	ErrRunning = errors.New("the supervisor runs already")
	// ErrNotRunning means that the loop has ended and takes no more requests.
	ErrNotRunning = errors.New("the supervisor's loop does not run")
)
