// SPDX-License-Identifier: Apache-2.0

package ledger

// volume is 0: it cannot be told.
func volume(string) int64 { return 0 }
