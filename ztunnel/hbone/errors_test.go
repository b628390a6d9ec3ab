// SPDX-License-Identifier: Apache-2.0

package hbone

import "testing"

func TestBytesWithoutAFaultCostNoAllocation(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { tunnelErrorOf(nil) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
