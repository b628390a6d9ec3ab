// SPDX-License-Identifier: Apache-2.0

package networkpolicy

// ModeLabel is the label of a Namespace that says what becomes of connections which the
// NetworkPolicies of that namespace do not admit.
const ModeLabel = "culvert.dev/network-policy"

// Mode is a value of ModeLabel.
type Mode string

// The modes. Warn is that of a namespace which says nothing, or what means nothing.
const (
	Enforce Mode = "enforce" // they are refused
	Warn    Mode = "warn"    // they pass, and are counted and logged
	Off     Mode = "off"     // the policies are not looked at
)

// ModeOf returns the mode of a namespace with these labels; strange: its value means
// nothing.
func ModeOf(labels map[string]string) (mode Mode, strange bool) {
	value, says := labels[ModeLabel]
	switch m := Mode(value); m {
	case Enforce, Warn, Off:
		return m, false
	}
	return Warn, says
}
