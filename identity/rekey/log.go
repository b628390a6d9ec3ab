// SPDX-License-Identifier: Apache-2.0

package rekey

// Keys of log records.
const logError = "error"
