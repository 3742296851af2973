// Package supervisor keeps a site as it should be: it observes, plans (a pure
// function) and acts, in one loop that never blocks.
package supervisor
