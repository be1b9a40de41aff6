"""The networks of the reference notebook in Keras, with the notebook's names of layers."""


def notebook_model(keras, name, image_shape=(32, 32, 3), num_classes=10):
    """`mlp`, `cnn` or `alexnet` (sections 1.4.1, 1.5.1 and 1.7.1), compiled."""
    model = keras.Sequential([keras.Input(image_shape), *NETWORKS[name](keras.layers, num_classes)])
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def mlp(layers, num_classes):
    return [
        layers.Flatten(name="input"),
        layers.Dense(1000, activation="relu", name="hidden_layer_1"),
        layers.Dropout(0.2, name="dropout_1"),
        layers.Dense(512, activation="relu", name="hidden_layer_2"),
        layers.Dropout(0.2, name="dropout_2"),
        layers.Dense(num_classes, activation="softmax", name="output"),
    ]


def cnn(layers, num_classes):
    return [
        layers.Conv2D(filters=16, kernel_size=2, padding="same", activation="relu", name="CONV1"),
        layers.MaxPooling2D(pool_size=2, name="POOL1"),
        layers.Conv2D(filters=32, kernel_size=2, padding="same", activation="relu", name="CONV2"),
        layers.MaxPooling2D(pool_size=2, name="POOL2"),
        layers.Conv2D(filters=64, kernel_size=2, padding="same", activation="relu", name="CONV3"),
        layers.MaxPooling2D(pool_size=2, name="POOL3"),
        layers.Dropout(0.3, name="DROP1"),
        layers.Flatten(name="FLAT1"),
        layers.Dense(500, activation="relu", name="FC1"),
        layers.Dropout(0.4, name="DROP2"),
        layers.Dense(num_classes, activation="softmax", name="FC2"),
    ]


def alexnet(layers, num_classes):
    return [
        layers.Conv2D(96, (3, 3), strides=(2, 2), activation="relu", padding="same", name="CONV_1"),
        layers.MaxPooling2D(pool_size=(2, 2), strides=(2, 2), name="POOL_1"),
        layers.BatchNormalization(name="NORM_1"),
        layers.Conv2D(filters=256, kernel_size=(5, 5), padding="same", activation="relu", name="CONV2"),
        layers.MaxPooling2D(pool_size=(3, 3), strides=(2, 2), name="POOL2"),
        layers.BatchNormalization(name="NORM_2"),
        layers.Conv2D(filters=384, kernel_size=(3, 3), padding="same", activation="relu", name="CONV3"),
        layers.Conv2D(filters=384, kernel_size=(3, 3), padding="same", activation="relu", name="CONV4"),
        layers.Conv2D(filters=256, kernel_size=(3, 3), padding="same", activation="relu", name="CONV5"),
        layers.MaxPooling2D(pool_size=(3, 3), strides=(2, 2), name="POOL5"),
        layers.BatchNormalization(name="NORM_5"),
        layers.Flatten(name="FLAT"),
        layers.Dense(4096, activation="relu", name="FC1"),
        layers.Dropout(0.4, name="DROP1"),
        layers.Dense(4096, activation="relu", name="FC2"),
        layers.Dropout(0.4, name="DROP2"),
        layers.Dense(num_classes, activation="softmax"),
    ]


NETWORKS = {"mlp": mlp, "cnn": cnn, "alexnet": alexnet}
