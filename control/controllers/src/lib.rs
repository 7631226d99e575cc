//! fairlead-controllers.
