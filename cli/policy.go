// SPDX-License-Identifier: Apache-2.0

package cli

import "github.com/spf13/cobra"

// policy groups what is asked of PeerAuthentications and AuthorizationPolicies.
func (c *command) policy() *cobra.Command {
	return noun("policy", "Ask what policies say of a connection, before and after a change", c.policyExplain(), c.policyTest(), c.policyLint())
}
