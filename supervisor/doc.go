// Package supervisor keeps a site as it should be: it observes, plans (a pure
// function) and acts, in one loop that never blocks.
//
// [Supervisor.Apply] commits a [Desired] state and gives it to the loop. Every
// turn of the loop takes in what was observed (exits from the engine, answers
// of probes, words of the proxy, ends of operations), asks [Plan] what is to be
// done now, and begins those steps. A step is an operation on a goroutine of
// its own with a deadline; its end wakes the loop. So a turn takes
// microseconds, and the watchdog that is fed at its end tells the truth.
//
// Nothing that matters lives in the loop alone. Containers carry labels with
// the hash of what was asked; wishes of the administrator, results of jobs and
// the history lie in the store; the next daemon plans from what it finds and
// touches nothing that is as it should be.
package supervisor
