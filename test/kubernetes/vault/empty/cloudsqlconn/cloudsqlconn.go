// SPDX-License-Identifier: Apache-2.0

// Package cloudsqlconn leads to no database in this build.
package cloudsqlconn

type (
	Option     struct{}
	DialOption struct{}
)

func WithIAMAuthN() Option                        { return Option{} }
func WithCredentialsJSON([]byte) Option           { return Option{} }
func WithDefaultDialOptions(...DialOption) Option { return Option{} }
func WithPrivateIP() DialOption                   { return DialOption{} }
func WithPSC() DialOption                         { return DialOption{} }
