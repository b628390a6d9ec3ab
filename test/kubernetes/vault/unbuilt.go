// SPDX-License-Identifier: Apache-2.0

//go:build !treesdk

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "vault: it is built by make test-vault, which gives it the sdk of Vault's tree")
	os.Exit(1)
}
