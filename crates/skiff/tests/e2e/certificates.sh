# The certificates and kubeconfigs of a cluster, made with openssl as an administrator would: nothing here is Skiff's.
#   sh certificates.sh FOLDER NODE ADDRESS SERVICE_ADDRESS
set -eu
folder=$1 node=$2 address=$3 service=$4
mkdir -p "$folder"
cd "$folder"

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key" 2>/dev/null; }

key ca
openssl req -x509 -new -key ca.key -days 30 -subj /CN=test-ca -out ca.crt 2>/dev/null
key sa

sign() { # sign NAME SUBJECT EXTENSIONS
  key "$1"
  printf '%s\n' "$3" >"$1.ext"
  openssl req -new -key "$1.key" -subj "$2" 2>/dev/null |
    openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
}
server() { sign "$1" "$2" "extendedKeyUsage=serverAuth
subjectAltName=$3"; }
client() { sign "$1" "$2" extendedKeyUsage=clientAuth; }

server apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:$address,IP:$service"
server kubelet-serving "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$address"
client kubelet-client /CN=kube-apiserver-kubelet-client
client admin /O=system:masters/CN=kubernetes-admin
client scheduler /CN=system:kube-scheduler
client controller-manager /CN=system:kube-controller-manager
client kube-proxy /CN=system:kube-proxy
client kubelet "/O=system:nodes/CN=system:node:$node"

for name in admin scheduler controller-manager kube-proxy kubelet; do
  cat >"$name.kubeconfig" <<END
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:6443", certificate-authority: $folder/ca.crt}}]
users: [{name: $name, user: {client-certificate: $folder/$name.crt, client-key: $folder/$name.key}}]
contexts: [{name: test, context: {cluster: test, user: $name}}]
current-context: test
END
done
