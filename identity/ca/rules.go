// SPDX-License-Identifier: Apache-2.0

package ca

// Codes of defects. A code is never given to another defect; docs/identity.md lists
// them.
const (
	fileMissing   = "CA001"
	fileEmpty     = "CA002"
	fileTooLong   = "CA003"
	tooManyBlocks = "CA004"
	utf16         = "CA005"
	inDER         = "CA006"
	pkcs12        = "CA007"
	noPEM         = "CA008"
	brokenPEM     = "CA009"
	noLayout      = "CA010"
	otherLayout   = "CA011"

	privateAmongCerts = "CA020"
	csrForCert        = "CA021"
	crlForCert        = "CA022"
	otherForCert      = "CA023"
	certUnreadable    = "CA024"

	certAmongKeys        = "CA030"
	manyKeys             = "CA031"
	noKey                = "CA032"
	sshKey               = "CA033"
	badKey               = "CA034"
	encryptedKey         = "CA035"
	rootKeyEncrypted     = "CA036"
	passphraseUnreadable = "CA037"
	passphraseWrong      = "CA038"
	foreignKey           = "CA039"
	rootKeyOfAnother     = "CA040"
	costlyKey            = "CA041"
	shortKey             = "CA042"
	badReference         = "CA043"
	signerAway           = "CA044"
	signerOther          = "CA045"

	notAnAuthority    = "CA050"
	noConstraints     = "CA051"
	noCertSign        = "CA052"
	weakSignature     = "CA053"
	expired           = "CA054"
	notYetValid       = "CA055"
	foreignDomain     = "CA056"
	criticalExtension = "CA057"
	narrowUsage       = "CA058"
	weakSerial        = "CA059"
	noPathLength      = "CA060"
	shortLife         = "CA061"
	outlivesParent    = "CA062"

	notOfARoot      = "CA070"
	issuerNotFirst  = "CA071"
	brokenChain     = "CA072"
	issuerIsRoot    = "CA073"
	rootInChain     = "CA074"
	pathTooLong     = "CA075"
	takenSelfSigned = "CA076"
	otherKeyID      = "CA077"
	otherSerialID   = "CA078"
	brokenRoot      = "CA079"
	rootIsSigned    = "CA080"
	rootTwice       = "CA081"
	rootsOfOneName  = "CA082"
	spareExpired    = "CA083"
	nameConstraints = "CA084"
	unusable        = "CA085"
	otherParentName = "CA086"
	chainTooLong    = "CA087"
	bundleTooLong   = "CA088"

	writableKey   = "CA090"
	readableKey   = "CA091"
	writableCert  = "CA092"
	openDirectory = "CA093"
)

// rule is what all defects of one code have in common. In its texts, FILE is the file
// at fault, and ROOTS, ISSUER and ISSUER_KEY are those of the layout in use.
type rule struct {
	severity      Severity
	follows, mend string
}

var rules = map[string]rule{
	fileMissing: {Error, "a part of a CA signs nothing, and no other CA is made in its place",
		"put FILE there from a backup of this CA"},
	fileEmpty: {Error, "nothing can be read from it; a full disk or a broken copy leaves such a file",
		"put FILE there again from where it came"},
	fileTooLong: {Error, "it is not decoded: decoding what has no bound stops the CA",
		"keep only the certificates of this chain or bundle in FILE: grep -c BEGIN FILE"},
	tooManyBlocks: {Error, "it is not decoded: every handshake would carry and check all of them",
		"keep only the certificates of this chain or bundle in FILE: grep -c BEGIN FILE"},
	utf16: {Error, "PEM is ASCII: no program reads it; PowerShell's > writes such files",
		"iconv -f UTF-16 -t UTF-8 FILE > FILE.new && mv FILE.new FILE"},
	inDER: {Error, "it is binary, and PEM is expected",
		"a certificate: openssl x509 -inform DER -in FILE -out FILE.pem; a key: openssl pkey -inform DER -in FILE -out FILE.pem; then mv FILE.pem FILE"},
	pkcs12: {Error, "it holds key and certificates in one encrypted file, and PEM files are expected",
		"openssl pkcs12 -in FILE -nokeys -out ISSUER; openssl pkcs12 -in FILE -nocerts -nodes -out ISSUER_KEY"},
	noPEM: {Error, "nothing can be read from it: no line begins with -----BEGIN",
		"look what it is: file FILE; a value of a Secret must be decoded once: base64 -d"},
	brokenPEM: {Error, "the block, and what its reader makes of the rest, cannot be trusted",
		"copy FILE again, whole, with the line breaks and without indentation"},
	noLayout: {Error, "which certificate is the issuer's cannot be told",
		"name the files as one layout of docs/identity.md does"},
	otherLayout: {Warning, "they are not in use; whoever changes them changes nothing",
		"delete the files of the layout that should not be in use"},

	privateAmongCerts: {Error, "certificates are published: the key would be too",
		"move the key to ISSUER_KEY; if FILE was ever readable for others, make a new key"},
	csrForCert: {Error, "nobody has signed it",
		"have it signed: openssl x509 -req -in FILE -CA ROOTS -CAkey ROOT_KEY -CAcreateserial -days 365 -extfile CONFIG -extensions v3_ca -out ISSUER"},
	crlForCert: {Error, "it says what is revoked, and certifies nothing",
		"put the certificate in its place; a CRL is for -crl or -crl-configmap"},
	otherForCert: {Error, "it is not read: what is in it besides a certificate is unknown",
		"openssl x509 -in FILE -out FILE.pem && mv FILE.pem FILE"},
	certUnreadable: {Error, "no verifier written in Go reads it",
		"look at it: openssl x509 -in FILE -noout -text; have its CA make it again"},

	certAmongKeys: {Error, "the file of a key is read by fewer than that of a certificate: the two are kept apart",
		"move the certificate to ISSUER: openssl pkey -in FILE -out FILE.key && mv FILE.key FILE"},
	manyKeys: {Error, "which of them is meant cannot be told",
		"leave the key of ISSUER in FILE: openssl pkey -in FILE -pubout shows the first"},
	noKey: {Error, "without the private key nothing can be signed",
		"put the private key there: openssl genpkey made it, and openssl pkey -in FILE -noout reads it"},
	sshKey: {Error, "TLS programs do not read that format",
		"ssh-keygen -p -m PKCS8 -N '' -f FILE"},
	badKey: {Error, "without the private key nothing can be signed",
		"openssl pkey -in FILE -out FILE.pem && mv FILE.pem FILE writes it as PKCS#8, if it is one"},
	encryptedKey: {Error, "without the private key nothing can be signed",
		"culvert-identity -passphrase-file PATH, or: openssl pkey -in FILE -out FILE.pem && mv FILE.pem FILE"},
	rootKeyEncrypted: {Warning, "the CA signs, and cannot renew its issuer: that must be done by hand before it expires",
		"culvert-identity -passphrase-file PATH, or keep FILE offline and delete it here"},
	passphraseUnreadable: {Error, "without its passphrase the private key cannot be used",
		"put the passphrase in a regular file of one line, readable for the CA"},
	passphraseWrong: {Error, "without its passphrase the private key cannot be used",
		"try it: openssl pkey -in FILE -passin file:PATH -noout; write it again: openssl pkcs8 -topk8 -v2 aes-256-cbc"},
	foreignKey: {Error, "what it signs does not verify under the certificate",
		"compare: openssl pkey -in ISSUER_KEY -pubout; openssl x509 -in ISSUER -noout -pubkey; put the two of one pair there"},
	rootKeyOfAnother: {Error, "an issuer that it signs is of no root that nodes trust",
		"put the key of a root in ROOTS there, or delete FILE: the CA signs without it"},
	costlyKey: {Error, "nodes refuse every certificate signed by it: they bound what a check costs",
		"make a key of P-256: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ISSUER_KEY, and have its certificate signed"},
	shortKey: {Error, "such keys are within reach of whoever has the money",
		"make a key of P-256: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ISSUER_KEY, and have its certificate signed"},

	badReference: {Error, "which signer has the private key is not known",
		"culvert ca signer unix:PATH > FILE writes it"},
	signerAway: {Error, "without its signer nothing can be signed; it is asked again",
		"start culvert-signer for that socket, and read its log: the token may be locked or absent"},
	signerOther: {Error, "what it signs does not verify under the certificate",
		"start culvert-signer with the key of ISSUER; culvert ca signer unix:PATH shows which one it has"},

	notAnAuthority: {Error, "it is the certificate of a server or client: no verifier accepts what it signs",
		"sign it as an authority: basicConstraints = critical, CA:TRUE in the section that -extensions names"},
	noConstraints: {Error, "a verifier takes it for the certificate of a server or client, and refuses what it signs",
		"put basicConstraints = critical, CA:TRUE in the section that -extensions names, not below another [section], and sign it again with -extfile"},
	noCertSign: {Error, "no verifier accepts a certificate signed by it",
		"sign it again with keyUsage = critical, keyCertSign, cRLSign"},
	weakSignature: {Error, "Go, and OpenSSL as distributions set it, refuse the signature",
		"sign it again with openssl x509 -req -sha256"},
	expired: {Error, "no verifier accepts what is signed below it",
		"have it signed again with the same key, while the root holds: nothing that trusts the root needs to change"},
	notYetValid: {Error, "no verifier accepts it before",
		"set the clock of this machine; or have it signed by a machine whose clock is right"},
	foreignDomain: {Error, "workloads of this mesh would have identities of another trust domain",
		"start with the -trust-domain that it is made for; or make it again with the URI spiffe://DOMAIN, or with none"},
	criticalExtension: {Error, "a verifier must refuse a certificate with a critical extension that it does not know",
		"make it again without the extension, or with one that is not critical"},
	narrowUsage: {Error, "workloads are clients and servers, and a usage that the authority lacks is refused below it",
		"make it again with extendedKeyUsage = serverAuth, clientAuth, or without"},
	weakSerial: {Warning, "who can guess serial numbers has one obstacle less to forge a certificate",
		"sign it again with openssl x509 -req -CAcreateserial, which draws one at random"},
	noPathLength: {Warning, "whoever has its key can make authorities of their own below it; it needs no subjectAltName",
		"sign it again with basicConstraints = critical, CA:TRUE, pathlen:0 in the section that -extensions names"},
	shortLife: {Warning, "leaves are cut short at its end, and nodes ask ever more often",
		"have issuers made that live longer, or start with a shorter -ttl"},
	outlivesParent: {Warning, "it is worth nothing after the one above it has expired",
		"sign it again with an end before that of the certificate above it"},

	notOfARoot: {Error, "nodes, which trust the roots in ROOTS and no others, refuse all that it signs",
		"put the root that signed it into ROOTS: openssl verify -CAfile ROOTS ISSUER"},
	issuerNotFirst: {Error, "TLS wants the issuer first, then what signed it",
		"put the certificate of ISSUER_KEY first in FILE, then the one that signed it, and so on, without the root"},
	brokenChain: {Error, "a verifier gets certificates of which it can make no path to a root",
		"put into FILE the issuer, then the certificate that signed it, and so on, without the root"},
	chainTooLong: {Error, "nodes refuse what they would have to check at every handshake",
		"have the issuer signed by a certificate nearer to the root"},
	bundleTooLong: {Error, "nodes refuse so long an answer, and get no certificate at all",
		"take the roots out of FILE that nothing needs any more"},
	issuerIsRoot: {Error, "a root whose key signs every leaf can be neither kept offline nor replaced without a restart of the mesh",
		"make an issuer under it: openssl x509 -req -in ISSUER.csr -CA ROOTS -CAkey ROOT_KEY -CAcreateserial -days 365 -extfile CONFIG -extensions v3_ca -out ISSUER"},
	rootInChain: {Error, "a root proves nothing by being sent: nodes trust only those in ROOTS",
		"if it is the right root, put it into ROOTS; if not, take it out of FILE"},
	pathTooLong: {Error, "a verifier refuses a path with more authorities below it than it allows",
		"sign it again with a larger pathlen, or without: basicConstraints = critical, CA:TRUE"},
	takenSelfSigned: {Error, "OpenSSL finds no path from it to the root, and refuses all that it signs (error 19 or 20)",
		"give it a name of its own: CN = issuer.DOMAIN, with step: step certificate create issuer.DOMAIN ...; or sign it again with authorityKeyIdentifier = keyid and subjectKeyIdentifier = hash"},
	otherKeyID: {Error, "OpenSSL looks for the key that the identifier names, and finds no issuer (error 20)",
		"sign it again with the present root: openssl x509 -req -CA ROOTS -CAkey ROOT_KEY"},
	otherSerialID: {Error, "OpenSSL looks for the certificate that the identifier names, and finds no issuer (error 20)",
		"sign it again with authorityKeyIdentifier = keyid, without issuer"},
	brokenRoot: {Error, "it was damaged or forged: its signature is not by its own key",
		"put the root there again from where it came: openssl verify -CAfile FILE FILE"},
	rootIsSigned: {Warning, "Go and Istio's ztunnel accept it as an anchor, OpenSSL only with -partial_chain",
		"put the self-signed root above it into FILE, and it into ISSUER after the issuer"},
	rootTwice: {Warning, "it is trusted once; somebody meant to add another",
		"keep one copy in FILE"},
	rootsOfOneName: {Warning, "verifiers look a root up by its name, and must try each; some try only a few",
		"give each new root a name of its own (CN)"},
	spareExpired: {Warning, "it vouches for nothing any more",
		"take it out of FILE"},
	nameConstraints: {Error, "no verifier accepts certificates for names that an authority above them is barred from",
		"make it again with nameConstraints that permit URI:DOMAIN and the CA's own DNS names, or without"},
	unusable: {Error, "no peer accepts what this CA signs",
		"look at the chain: openssl verify -show_chain -CAfile ROOTS -untrusted ISSUER ISSUER"},
	otherParentName: {Error, "a verifier looks for the one that signed it by name, and does not find it",
		"put the certificate that it was signed under into ROOTS, not another of the same key"},

	writableKey: {Error, "whoever can write there can make the CA sign by a key that they know",
		"chmod 600 FILE, and make a new key if others may have been there"},
	readableKey: {Warning, "whoever has read it can give themselves every identity of the mesh",
		"chmod 600 FILE; of a Secret that is mounted: defaultMode: 0400"},
	writableCert: {Error, "whoever can write there can have nodes trust another root",
		"chmod 644 FILE"},
	openDirectory: {Warning, "an emptyDir and some volumes are so, and only their pod sees them; elsewhere it hands the CA to everybody",
		"chmod 700 FILE"},
}
