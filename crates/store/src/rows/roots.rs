//! Roots: the trees that must be kept.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
};

use super::entities::root;
use crate::digest::Digest;
use crate::object::ObjectRef;
use crate::tree::TreeRoot;

/// The level of a root that is a whole object and no tree.
pub(crate) const WHOLE_LEVEL: i16 = -1;

impl root::Model {
    /// The whole object that it names, where it does.
    pub(crate) fn object(&self) -> Option<ObjectRef> {
        let digest = Digest::from_slice(&self.digest)?;
        (self.level == WHOLE_LEVEL).then_some(ObjectRef {
            digest,
            bytes: self.virtual_bytes.cast_unsigned(),
            domain: self.domain,
        })
    }

    pub(crate) fn tree(&self) -> Option<TreeRoot> {
        Some(TreeRoot {
            digest: Digest::from_slice(&self.digest)?,
            level: u8::try_from(self.level).ok()?,
            virtual_bytes: self.virtual_bytes.cast_unsigned(),
            domain: self.domain,
        })
    }
}

pub(crate) async fn root_insert(db: &impl ConnectionTrait, row: root::Model) -> Result<(), DbErr> {
    root::Entity::insert(root::ActiveModel::from(row))
        .exec_without_returning(db)
        .await
        .map(drop)
}

/// Removes a root; false when there was none.
pub(crate) async fn root_delete(
    db: &impl ConnectionTrait,
    store: i32,
    kind: &str,
    owner: &str,
) -> Result<bool, DbErr> {
    let key = (store, kind.to_owned(), owner.to_owned());
    Ok(root::Entity::delete_by_id(key).exec(db).await?.rows_affected == 1)
}

/// Says whether a root is only kept so that its owner can be restored; false when there is none.
pub(crate) async fn root_restorable(
    db: &impl ConnectionTrait,
    store: i32,
    kind: &str,
    owner: &str,
    restorable: bool,
) -> Result<bool, DbErr> {
    let done = root::Entity::update_many()
        .col_expr(root::Column::Restorable, Expr::value(restorable))
        .filter(root::Column::Store.eq(store))
        .filter(root::Column::Kind.eq(kind))
        .filter(root::Column::Owner.eq(owner))
        .exec(db)
        .await?;
    Ok(done.rows_affected == 1)
}

pub(crate) async fn root_get(
    db: &impl ConnectionTrait,
    store: i32,
    kind: &str,
    owner: &str,
) -> Result<Option<root::Model>, DbErr> {
    root::Entity::find_by_id((store, kind.to_owned(), owner.to_owned()))
        .one(db)
        .await
}

pub(crate) async fn roots_list(db: &impl ConnectionTrait, store: i32) -> Result<Vec<root::Model>, DbErr> {
    root::Entity::find()
        .filter(root::Column::Store.eq(store))
        .order_by_asc(root::Column::Kind)
        .order_by_asc(root::Column::Owner)
        .all(db)
        .await
}

/// Some root with this tree; it cannot be deleted until the transaction ends.
pub(crate) async fn root_hold(
    db: &impl ConnectionTrait,
    store: i32,
    tree: &TreeRoot,
) -> Result<Option<root::Model>, DbErr> {
    root::Entity::find()
        .filter(root::Column::Store.eq(store))
        .filter(root::Column::Domain.eq(tree.domain))
        .filter(root::Column::Digest.eq(tree.digest.0.to_vec()))
        .lock_shared()
        .one(db)
        .await
}
