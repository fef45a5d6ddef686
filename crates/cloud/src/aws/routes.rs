//! Routes to pod ranges, in one route table that the configuration names.

use async_trait::async_trait;

use super::Aws;
use super::client::Parameters;
use super::instances::instance_id;
use super::xml::{items, text};
use crate::provider::{Answer, ProviderError, Route, Routes};

impl Aws {
    fn table(&self) -> Answer<&str> {
        let table = self.config.route_table.as_deref();
        table.ok_or_else(|| ProviderError::Permanent("the configuration names no routeTable".to_owned()))
    }

    /// A machine that forwards for pods must not drop what is not addressed to itself.
    async fn let_forward(&self, instance: &str) -> Answer<()> {
        let parameters =
            Parameters::default().with("InstanceId", instance).with("SourceDestCheck.Value", "false");
        self.client.call(&self.ec2, "ModifyInstanceAttribute", &parameters).await?;
        Ok(())
    }
}

#[async_trait]
impl Routes for Aws {
    async fn list(&self) -> Answer<Vec<Route>> {
        let parameters = Parameters::default().with("RouteTableId.1", self.table()?);
        let token = ("NextToken", &["nextToken"][..]);
        let tables = self.client.pages(&self.ec2, "DescribeRouteTables", parameters, token, |page| {
            let tables = items(page, &["routeTableSet"]);
            let routes = tables.into_iter().flat_map(|table| items(table, &["routeSet"]));
            let to_machines = routes.filter(|route| text(*route, &["instanceId"]).starts_with("i-"));
            to_machines
                .map(|route| Route {
                    // The zone is left out: only the machine counts.
                    provider_id: format!("aws:///{}", text(route, &["instanceId"])),
                    cidr: text(route, &["destinationCidrBlock"]).to_owned(),
                    blackhole: text(route, &["state"]) == "blackhole",
                })
                .collect()
        });
        Ok(tables.await?)
    }

    async fn create(&self, route: &Route) -> Answer<()> {
        let instance = instance_id(&route.provider_id)?;
        self.let_forward(instance).await?;
        let parameters = Parameters::default()
            .with("RouteTableId", self.table()?)
            .with("DestinationCidrBlock", &route.cidr)
            .with("InstanceId", instance);
        match self.client.call(&self.ec2, "CreateRoute", &parameters).await {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.code == "RouteAlreadyExists" => {
                self.client.call(&self.ec2, "ReplaceRoute", &parameters).await?;
                Ok(())
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn delete(&self, route: &Route) -> Answer<()> {
        let parameters = Parameters::default()
            .with("RouteTableId", self.table()?)
            .with("DestinationCidrBlock", &route.cidr);
        match self.client.call(&self.ec2, "DeleteRoute", &parameters).await {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.code == "InvalidRoute.NotFound" => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }
}
