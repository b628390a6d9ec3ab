// SPDX-License-Identifier: Apache-2.0

package ca

// writable reports true: whoever writes is told.
func (d Directory) writable() bool { return true }
