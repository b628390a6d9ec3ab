// SPDX-License-Identifier: Apache-2.0

// Package rekey replaces the root of a running CA by one of another key, without a failed
// handshake: nobody gets a certificate that somebody else does not trust yet, and no root
// goes that a certificate or a tunnel still needs.
//
//	plan.go     Plan: the states, what may follow which, and how they are stored
//	kit.go      Kit: a root and an issuer under it, with their keys
//	request.go  what an operator may ask for, in which state
//	report.go   Report: what a replica of the CA knows of the nodes that it serves
//	gate.go     what is waited for, and for whom
//	step.go     Next, the one function that decides; Wanted, which files a state wants
//	board.go    Board: where replicas tell each other; that of a directory
//	log.go      keys of log records
//	stepper.go  Stepper: looks, and takes one step after the other
//
// A Plan is stored with the CA. A step first stores the state, and then the files that the
// state wants, so that a process which is killed in between leaves what the next one ends.
// Every write is refused if another process has written since, so that each step is taken
// once, whoever takes it.
//
// The states, with A the root of before and B the next one:
//
//	state       roots   issuer  what is waited for                        then
//	stable      A       A       an operator                               prepare
//	prepare     A       A       B is one that nodes would accept          distribute
//	distribute  A, B    A       every replica gives both roots, every     activate
//	                            node has said that it goes by them; the
//	                            signer of B's issuer signs, if it has one
//	activate    A, B    B       every replica signs by B                  drain
//	drain       A, B    B       every replica can sign by B;              drop
//	                            nothing rests on A: no certificate, no
//	                            tunnel; of a node that does not say: all
//	                            that A signed has ended
//	drop        B       B       every node has said that it goes by B     stable
//	withdraw    A       A       after an abort: as drop, for A            stable
//
// If the key of A may be in other hands, each state is left after a time without those that are
// cut off; drain lasts until those that answer have moved, or for a minute more.
//
// A rollback goes to activate with A and B changing places.
package rekey
