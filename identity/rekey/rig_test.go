// SPDX-License-Identifier: Apache-2.0

package rekey

import "github.com/spiffe/go-spiffe/v2/spiffeid"

var td = spiffeid.RequireTrustDomainFromString("cluster.local")
