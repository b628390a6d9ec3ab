// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"fmt"
	"os"
	"strings"
)

// BootID is the kernel's random id of this boot, as Request has it: netns cookies
// start anew with the next one.
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}
