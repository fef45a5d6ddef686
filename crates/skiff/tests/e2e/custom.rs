//! Custom resources as people use them: kubectl's discovery, validation, printing, apply and diff of what a definition that
//! was made a moment ago defines.

use crate::machine::Cluster;

const BOATS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.harbour.example.com}
spec:
  group: harbour.example.com
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat, shortNames: [bt], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.oars, statusReplicasPath: .status.oars}
    additionalPrinterColumns:
    - {name: Oars, type: integer, jsonPath: .spec.oars}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    selectableFields: [{jsonPath: .spec.colour}]
    schema:
      openAPIV3Schema:
        type: object
        description: Something that floats.
        required: [spec]
        properties:
          spec:
            type: object
            x-kubernetes-validations:
            - {rule: "self.oars % 2 == 0", message: oars come in pairs}
            - {rule: "!has(oldSelf.colour) || has(self.colour) && self.colour == oldSelf.colour", message: colour is immutable}
            properties:
              oars: {type: integer, minimum: 0, default: 2, description: How many there are.}
              colour: {type: string, enum: [red, green]}
              crew: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string}, seat: {type: integer}}}}
          status: {type: object, properties: {oars: {type: integer}}}
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    deprecationWarning: not this one
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"#;

/// Goes through the life of a definition and its objects.
pub fn resources_are_there_a_moment_later(cluster: &Cluster) {
    cluster.kubectl(&format!("apply -f - <<'END'\n{BOATS}\nEND"));
    cluster.kubectl("wait --for=condition=established crd/boats.harbour.example.com --timeout=5s");
    assert!(cluster.kubectl("get crds").contains("boats.harbour.example.com"));
    let found = cluster.kubectl("api-resources --api-group=harbour.example.com");
    assert!(found.contains("bt") && found.contains("Boat"), "{found}");
    let told = cluster.kubectl("explain boat.spec.oars --api-version=harbour.example.com/v1");
    assert!(told.contains("How many there are.") && told.contains("<integer>"), "{told}");
    values(cluster);
    changes(cluster);
    cluster.kubectl("delete crd boats.harbour.example.com --timeout=30s");
    let gone = cluster.try_kubectl("get boats").expect_err("there are none any more");
    // kubectl remembers what it discovered.
    assert!(gone.contains("the server could not find the requested resource"), "{gone}");
}

fn boat(name: &str, spec: &str) -> String {
    format!(
        "<<'END'\n{{apiVersion: harbour.example.com/v1, kind: Boat, metadata: {{name: {name}}}, spec: {spec}}}\nEND"
    )
}

fn values(cluster: &Cluster) {
    cluster.kubectl(&format!("create -f - {}", boat("ida", "{colour: red}")));
    let table = cluster.kubectl("get boats");
    assert!(table.contains("OARS") && table.contains("ida"), "{table}");
    assert_eq!(cluster.kubectl("get bt ida -o jsonpath='{.spec.oars}'"), "2", "the default");
    assert!(cluster.kubectl("get all").contains("boat.harbour.example.com/ida"));
    assert!(cluster.kubectl("get boats --field-selector spec.colour=red").contains("ida"));
    assert!(!cluster.kubectl("get boats --field-selector spec.colour=green").contains("ida"));
    for (spec, words) in [
        ("{oars: 3}", "spec: Invalid value: \"object\": oars come in pairs"),
        (
            "{oars: -2}",
            "spec.oars: Invalid value: -2: spec.oars in body should be greater than or equal to 0",
        ),
        (
            "{oars: many}",
            "spec.oars: Invalid value: \"string\": spec.oars in body must be of type integer: \"string\"",
        ),
        ("{sails: 1}", "unknown field \"spec.sails\""),
    ] {
        let error =
            cluster.try_kubectl(&format!("create -f - {}", boat("bad", spec))).expect_err("it is bad");
        assert!(error.contains(words), "{spec}: {words:?} is not in: {error}");
    }
    let wrong = BOATS.replace("self.oars % 2 == 0", "self.sails > 1");
    let error = cluster.try_kubectl(&format!("apply -f - <<'END'\n{wrong}\nEND")).expect_err("no such field");
    assert!(error.contains("compilation failed") && error.contains("undefined field 'sails'"), "{error}");
}

fn changes(cluster: &Cluster) {
    cluster.kubectl("scale boat ida --replicas=4");
    assert_eq!(cluster.kubectl("get boat ida -o jsonpath='{.spec.oars}'"), "4");
    let error = cluster.try_kubectl("patch boat ida --type=merge -p '{\"spec\":{\"colour\":\"green\"}}'");
    assert!(error.expect_err("it stays red").contains("colour is immutable"));
    let crew = |name: &str| boat("ida", &format!("{{crew: [{{name: {name}, seat: 1}}]}}"));
    cluster.kubectl(&format!("apply --server-side --field-manager=one -f - {}", crew("ann")));
    cluster.kubectl(&format!("apply --server-side --field-manager=two -f - {}", crew("bob")));
    assert_eq!(cluster.kubectl("get boat ida -o jsonpath='{.spec.crew[*].name}'"), "ann bob");
    cluster.kubectl(&format!("apply -f - {}", boat("tug", "{oars: 2}")));
    let shown =
        cluster.try_kubectl(&format!("diff -f - {}", boat("tug", "{oars: 6}"))).expect_err("a difference");
    assert!(shown.contains("-  oars: 2") && shown.contains("+  oars: 6"), "{shown}");
    cluster.kubectl(&format!("apply -f - {}", boat("tug", "{oars: 6}")));
    assert_eq!(
        cluster.kubectl("get boats.v1beta1.harbour.example.com tug -o jsonpath='{.apiVersion} {.spec.oars}'"),
        "harbour.example.com/v1beta1 6"
    );
    cluster.kubectl("label boat tug kept=yes");
    cluster.kubectl("delete boats -l kept=yes --timeout=10s");
    assert!(!cluster.kubectl("get boats -o name").contains("tug"));
}
