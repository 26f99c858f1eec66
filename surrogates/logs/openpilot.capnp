# The part of openpilot's log format that steerlab reads, written by ourselves.
#
# Cap'n Proto decodes by position. What counts is therefore that every ordinal up to the highest
# one used is declared with the width it has in openpilot; names, ids and the types behind unused
# pointers do not matter. Fields that nobody reads are called skipN, N being their ordinal.

@0xb7d3f1c84e2a9065;

struct Event {
  logMonoTime @0 :UInt64;  # ns
  valid @67 :Bool = true;
  union {
    initData @1 :InitData;
    skip2 @2 :AnyPointer;
    skip3 @3 :AnyPointer;
    skip4 @4 :AnyPointer;
    skip5 @5 :AnyPointer;
    skip6 @6 :AnyPointer;
    controlsState @7 :ControlsState;
    skip8 @8 :AnyPointer;
    skip9 @9 :AnyPointer;
    skip10 @10 :AnyPointer;
    skip11 @11 :AnyPointer;
    skip12 @12 :AnyPointer;
    skip13 @13 :AnyPointer;
    skip14 @14 :AnyPointer;
    skip15 @15 :AnyPointer;
    skip16 @16 :AnyPointer;
    skip17 @17 :AnyPointer;
    skip18 @18 :AnyPointer;
    skip19 @19 :AnyPointer;
    skip20 @20 :AnyPointer;
    skip21 @21 :AnyPointer;
    carState @22 :CarState;
    carControl @23 :CarControl;
    skip24 @24 :AnyPointer;
    skip25 @25 :AnyPointer;
    skip26 @26 :AnyPointer;
    skip27 @27 :AnyPointer;
    skip28 @28 :AnyPointer;
    skip29 @29 :AnyPointer;
    skip30 @30 :AnyPointer;
    skip31 @31 :AnyPointer;
    skip32 @32 :AnyPointer;
    skip33 @33 :AnyPointer;
    skip34 @34 :AnyPointer;
    skip35 @35 :AnyPointer;
    skip36 @36 :AnyPointer;
    skip37 @37 :AnyPointer;
    skip38 @38 :AnyPointer;
    skip39 @39 :AnyPointer;
    skip40 @40 :AnyPointer;
    skip41 @41 :AnyPointer;
    skip42 @42 :AnyPointer;
    skip43 @43 :AnyPointer;
    skip44 @44 :AnyPointer;
    skip45 @45 :AnyPointer;
    skip46 @46 :AnyPointer;
    skip47 @47 :AnyPointer;
    skip48 @48 :AnyPointer;
    skip49 @49 :AnyPointer;
    skip50 @50 :AnyPointer;
    skip51 @51 :AnyPointer;
    skip52 @52 :AnyPointer;
    skip53 @53 :AnyPointer;
    skip54 @54 :AnyPointer;
    skip55 @55 :AnyPointer;
    skip56 @56 :AnyPointer;
    skip57 @57 :AnyPointer;
    skip58 @58 :AnyPointer;
    skip59 @59 :AnyPointer;
    skip60 @60 :AnyPointer;
    liveParameters @61 :LiveParameters;
    skip62 @62 :AnyPointer;
    skip63 @63 :AnyPointer;
    skip64 @64 :AnyPointer;
    skip65 @65 :AnyPointer;
    skip66 @66 :AnyPointer;
    skip68 @68 :AnyPointer;
    skip69 @69 :AnyPointer;
    skip70 @70 :AnyPointer;
    skip71 @71 :AnyPointer;
    liveLocationKalman @72 :LiveLocationKalman;
    sentinel @73 :AnyPointer;
    skip74 @74 :AnyPointer;
    skip75 @75 :AnyPointer;
    skip76 @76 :AnyPointer;
    skip77 @77 :AnyPointer;
    skip78 @78 :AnyPointer;
    skip79 @79 :AnyPointer;
    skip80 @80 :AnyPointer;
    skip81 @81 :AnyPointer;
    skip82 @82 :AnyPointer;
    skip83 @83 :AnyPointer;
    skip84 @84 :AnyPointer;
    skip85 @85 :AnyPointer;
    skip86 @86 :AnyPointer;
    skip87 @87 :AnyPointer;
    skip88 @88 :AnyPointer;
    skip89 @89 :AnyPointer;
    skip90 @90 :AnyPointer;
    skip91 @91 :AnyPointer;
    skip92 @92 :AnyPointer;
    skip93 @93 :AnyPointer;
    liveTorqueParameters @94 :LiveTorqueParameters;
    skip95 @95 :AnyPointer;
    skip96 @96 :AnyPointer;
    skip97 @97 :AnyPointer;
    skip98 @98 :AnyPointer;
    skip99 @99 :AnyPointer;
    skip100 @100 :AnyPointer;
    skip101 @101 :AnyPointer;
    skip102 @102 :AnyPointer;
    skip103 @103 :AnyPointer;
    skip104 @104 :AnyPointer;
    skip105 @105 :AnyPointer;
    skip106 @106 :AnyPointer;
    skip107 @107 :AnyPointer;
    skip108 @108 :AnyPointer;
    skip109 @109 :AnyPointer;
    skip110 @110 :AnyPointer;
    skip111 @111 :AnyPointer;
    skip112 @112 :AnyPointer;
    skip113 @113 :AnyPointer;
    skip114 @114 :AnyPointer;
    skip115 @115 :AnyPointer;
    skip116 @116 :AnyPointer;
    skip117 @117 :AnyPointer;
    skip118 @118 :AnyPointer;
    skip119 @119 :AnyPointer;
    skip120 @120 :AnyPointer;
    skip121 @121 :AnyPointer;
    skip122 @122 :AnyPointer;
    skip123 @123 :AnyPointer;
    skip124 @124 :AnyPointer;
    skip125 @125 :AnyPointer;
    skip126 @126 :AnyPointer;
    carOutput @127 :CarOutput;
    skip128 @128 :AnyPointer;
    skip129 @129 :AnyPointer;
    skip130 @130 :AnyPointer;
    skip131 @131 :AnyPointer;
    skip132 @132 :AnyPointer;
    skip133 @133 :AnyPointer;
    skip134 @134 :AnyPointer;
    skip135 @135 :AnyPointer;
    skip136 @136 :AnyPointer;
    skip137 @137 :AnyPointer;
    skip138 @138 :AnyPointer;
    skip139 @139 :AnyPointer;
    skip140 @140 :AnyPointer;
    skip141 @141 :AnyPointer;
    skip142 @142 :AnyPointer;
    skip143 @143 :AnyPointer;
    skip144 @144 :AnyPointer;
    skip145 @145 :AnyPointer;
    liveDelay @146 :LiveDelay;
  }
}

struct InitData {
  skip0 @0 :AnyPointer;
  skip1 @1 :AnyPointer;
  dongleId @2 :Text;
  skip3 @3 :UInt16;
  version @4 :Text;
  skip5 @5 :AnyPointer;
  skip6 @6 :AnyPointer;
  skip7 @7 :AnyPointer;
  skip8 @8 :AnyPointer;
  dirty @9 :Bool;
  gitCommit @10 :Text;
  gitBranch @11 :Text;
  skip12 @12 :Bool;
  gitRemote @13 :Text;
}

struct CarState {
  skip0 @0 :AnyPointer;
  vEgo @1 :Float32;  # m/s
  skip2 @2 :AnyPointer;
  skip3 @3 :Float32;
  skip4 @4 :Bool;
  skip5 @5 :Float32;
  skip6 @6 :Bool;
  skip7 @7 :Float32;
  steeringTorque @8 :Float32;  # of the driver
  steeringPressed @9 :Bool;
  skip10 @10 :AnyPointer;
  skip11 @11 :AnyPointer;
  skip12 @12 :AnyPointer;
  skip13 @13 :AnyPointer;
  skip14 @14 :UInt16;
  skip15 @15 :Float32;
  aEgo @16 :Float32;  # m/s^2
  skip17 @17 :Float32;
  skip18 @18 :Bool;
  skip19 @19 :Bool;
  skip20 @20 :Bool;
  skip21 @21 :Bool;
  skip22 @22 :Float32;
  skip23 @23 :Bool;
  skip24 @24 :Bool;
  skip25 @25 :Bool;
  skip26 @26 :Bool;
  skip27 @27 :Float32;
  skip28 @28 :Bool;
  skip29 @29 :Bool;
  skip30 @30 :Bool;
  skip31 @31 :Bool;
  skip32 @32 :Bool;
  skip33 @33 :Bool;
  skip34 @34 :Bool;
  steerFaultTemporary @35 :Bool;
  steerFaultPermanent @36 :Bool;
}

struct CarControl {
  skip0 @0 :Bool;
  skip1 @1 :Float32;
  skip2 @2 :Float32;
  skip3 @3 :Float32;
  skip4 @4 :AnyPointer;
  skip5 @5 :AnyPointer;
  actuators @6 :Actuators;
  skip7 @7 :Bool;
  skip8 @8 :Float32;
  skip9 @9 :Float32;
  actuatorsOutput @10 :Actuators;
  latActive @11 :Bool;
  skip12 @12 :Bool;
  orientationNED @13 :List(Float32);  # rad
}

struct Actuators {
  skip0 @0 :Float32;
  skip1 @1 :Float32;
  torque @2 :Float32;  # -1..1, left-positive
}

struct CarOutput {
  actuatorsOutput @0 :Actuators;
}

struct ControlsState {
  skip0 @0 :Float32;
  skip1 @1 :Float32;
  skip2 @2 :Float32;
  skip3 @3 :Float32;
  skip4 @4 :Float32;
  skip5 @5 :Float32;
  skip6 @6 :Float32;
  skip7 @7 :Float32;
  skip8 @8 :Float32;
  skip9 @9 :Float32;
  skip10 @10 :Float32;
  skip11 @11 :Float32;
  skip12 @12 :Float32;
  skip13 @13 :Float32;
  skip14 @14 :Int32;
  skip15 @15 :Float32;
  skip16 @16 :UInt64;
  skip17 @17 :UInt64;
  skip18 @18 :UInt64;
  skip19 @19 :Bool;
  skip20 @20 :Bool;
  skip21 @21 :AnyPointer;
  skip22 @22 :Float32;
  skip23 @23 :Bool;
  skip24 @24 :AnyPointer;
  skip25 @25 :AnyPointer;
  skip26 @26 :Float32;
  skip27 @27 :Float32;
  skip28 @28 :UInt64;
  skip29 @29 :Float32;
  skip30 @30 :UInt16;
  skip31 @31 :UInt16;
  skip32 @32 :Float32;
  skip33 @33 :Float32;
  skip34 @34 :Float32;
  skip35 @35 :Float32;
  skip36 @36 :Bool;
  curvature @37 :Float32;  # 1/m, right-positive
  skip38 @38 :UInt16;
  skip39 @39 :UInt16;
  skip40 @40 :Bool;
  skip41 @41 :Bool;
  skip42 @42 :Float32;
  skip43 @43 :Bool;
  skip44 @44 :AnyPointer;
  skip45 @45 :AnyPointer;
  skip46 @46 :Float32;
  skip47 @47 :Bool;
  skip48 @48 :UInt64;
  skip49 @49 :Bool;
  skip50 @50 :UInt64;
  skip51 @51 :Bool;
  skip54 @54 :Bool;
  skip56 @56 :UInt16;
  skip57 @57 :UInt32;
  desiredCurvature @61 :Float32;  # 1/m, right-positive
  skip62 @62 :Float32;
  skip63 @63 :Float32;
  skip64 @64 :Bool;
  lateralControlState :union {
    indiState @52 :AnyPointer;
    pidState @53 :AnyPointer;
    lqrState @55 :AnyPointer;
    angleState @58 :AnyPointer;
    debugState @59 :AnyPointer;
    torqueState @60 :TorqueState;
    curvatureState @65 :AnyPointer;
  }
}

struct TorqueState {
  active @0 :Bool;
  skip1 @1 :Float32;
  skip2 @2 :Float32;
  skip3 @3 :Float32;
  skip4 @4 :Float32;
  skip5 @5 :Float32;
  skip6 @6 :Float32;
  saturated @7 :Bool;
  skip8 @8 :Float32;
  actualLateralAccel @9 :Float32;  # m/s^2, right-positive
  desiredLateralAccel @10 :Float32;  # m/s^2, right-positive
  skip11 @11 :Float32;
  version @12 :Int32;
}

struct LiveParameters {
  valid @0 :Bool;
  skip1 @1 :Float32;
  skip2 @2 :Float32;
  skip3 @3 :Float32;
  skip4 @4 :Float32;
  skip5 @5 :Float32;
  skip6 @6 :Bool;
  skip7 @7 :Float32;
  skip8 @8 :Float32;
  skip9 @9 :Bool;
  skip10 @10 :Float32;
  skip11 @11 :Float32;
  skip12 @12 :Float32;
  skip13 @13 :Float32;
  roll @14 :Float32;  # rad, right side down
}

struct LiveLocationKalman {
  skip0 @0 :AnyPointer;
  skip1 @1 :AnyPointer;
  skip2 @2 :AnyPointer;
  skip3 @3 :AnyPointer;
  skip4 @4 :AnyPointer;
  skip5 @5 :AnyPointer;
  skip6 @6 :AnyPointer;
  orientationNED @7 :Measurement;
  skip8 @8 :AnyPointer;
  calibratedOrientationNED @9 :Measurement;
}

struct Measurement {
  value @0 :List(Float64);
  std @1 :List(Float64);
  valid @2 :Bool;
}

struct LiveTorqueParameters {
  liveValid @0 :Bool;
  skip1 @1 :Float32;
  skip2 @2 :Float32;
  skip3 @3 :Float32;
  latAccelFactorFiltered @4 :Float32;
  skip5 @5 :Float32;
  frictionCoefficientFiltered @6 :Float32;
}

struct LiveDelay {
  lateralDelay @0 :Float32;  # s
}
