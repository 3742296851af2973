// Package store keeps what must not be lost of every site: what is wanted
// (the applied site file, intents), what was decided once (addresses, image
// digests, generated secrets), what was done (jobs) and the history of every
// service.
//
// One process holds the store ([Open], [ErrHeld]). What damages it is survived
// in this order: a record that does not match its checksum goes into quarantine
// and is taken from the newest copy that has it; a file whose pages do not hold
// together is moved aside and the newest good copy takes its place; without a
// copy the store begins empty, says so ([Store.Recovered]) and is filled again
// from the containers' labels ([Store.Rebuild]). Copies are made by the store
// itself, soon after a change of what is wanted and hourly for the history.
//
// Generated secrets also lie in a file of their own, readable by root alone.
// Either place is enough to have them back.
package store
