// SPDX-License-Identifier: Apache-2.0

// Package cli is the operator's commands: culvert, and kubectl culvert.
//
// A command reads what the mesh's programs hold (cli/fleet) or the CA's own files
// (cli/custody), decides by a pure function of that and of a clock, and prints a table
// for people or JSON for programs. Nouns only read.
package cli
